# The runtime service. From the repository's root:
#   docker build -f deploy/runtime.Dockerfile -t sinkserve-runtime .
# For TensorRT engines, on NVIDIA's image, which brings TensorRT and CUDA:
#   docker build -f deploy/runtime.Dockerfile -t sinkserve-runtime-gpu . \
#     --build-arg BASE=nvcr.io/nvidia/tensorrt:26.07-py3 --build-arg EXTRAS=runtime,cuda
ARG BASE=debian:12.12-slim

FROM ${BASE} AS install
ARG EXTRAS=runtime
# The base's tag names the point release; its security updates are wanted.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN python3 -m venv --system-site-packages /opt/sinkserve \
    && /opt/sinkserve/bin/pip install --no-cache-dir ".[${EXTRAS}]" \
    && /opt/sinkserve/bin/pip uninstall --yes pip setuptools

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 sinkserve \
    && useradd --uid 10001 --gid sinkserve --no-create-home --home-dir /var/lib/sinkserve sinkserve \
    && install --directory --owner sinkserve --group sinkserve /var/lib/sinkserve
COPY --from=install /opt/sinkserve /opt/sinkserve
# It listens where others reach it, so it starts only with a way to know who calls (SINKSERVE_AUTH_KEYS, SINKSERVE_AUTH_JWKS,
# SINKSERVE_TLS_CLIENT_CA, a proxy's header), or with SINKSERVE_AUTH_ANONYMOUS=allow: docs/operate/identities.md.
ENV PATH=/opt/sinkserve/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    SINKSERVE_HOME=/var/lib/sinkserve \
    SINKSERVE_RUNTIME_LISTEN=0.0.0.0:50071 \
    SINKSERVE_RUNTIME_METRICS_LISTEN=0.0.0.0:9471
WORKDIR /var/lib/sinkserve
VOLUME /var/lib/sinkserve
USER 10001:10001
EXPOSE 50071 9471
HEALTHCHECK --start-period=120s --interval=10s --timeout=5s CMD ["python", "-m", "common.rpc.probe", "127.0.0.1:9471/readyz"]
ENTRYPOINT ["python", "-m", "runtime_service"]

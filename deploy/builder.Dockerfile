# The builder service. From the repository's root:
#   docker build -f deploy/builder.Dockerfile -t sinkserve-builder .
# For TensorRT engines, on NVIDIA's image, which brings TensorRT and CUDA, and on the GPU that plans are for:
#   docker build -f deploy/builder.Dockerfile -t sinkserve-builder-gpu . \
#     --build-arg BASE=nvcr.io/nvidia/tensorrt:26.07-py3 --build-arg EXTRAS=builder,cuda
ARG BASE=debian:12.12-slim

FROM ${BASE} AS install
ARG EXTRAS=builder
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
    SINKSERVE_BUILDER_LISTEN=0.0.0.0:50061 \
    SINKSERVE_BUILDER_METRICS_LISTEN=0.0.0.0:9461 \
    SINKSERVE_BUILDER_SOURCE_ROOTS=/models
WORKDIR /var/lib/sinkserve
VOLUME /var/lib/sinkserve
USER 10001:10001
EXPOSE 50061 9461
HEALTHCHECK --start-period=10s --interval=10s --timeout=5s CMD ["python", "-m", "common.rpc.probe", "127.0.0.1:9461/readyz"]
ENTRYPOINT ["python", "-m", "builder_service"]

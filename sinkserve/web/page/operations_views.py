"""Builds, engines and usage as the page sees them."""

from __future__ import annotations

from typing import Any

from sinkserve.builder.v1 import builder_service_pb2 as pb
from sinkserve.client.errors import from_status
from sinkserve.engine.v1 import engine_pb2
from sinkserve.runtime.v1 import engine_service_pb2 as loaded_pb
from sinkserve.runtime.v1 import usage_service_pb2 as usage_pb
from sinkserve.web.errors import error_body
from sinkserve.web.page.views import View, time, word


def build_view(build: pb.Build) -> View:
    """A build."""
    return {
        "name": build.name,
        "spec": spec_view(build.spec),
        "state": word(build, "state"),
        "stage": word(build, "stage"),
        "progress": build.progress,
        "create_time": time(build.create_time),
        "start_time": time(build.start_time),
        "end_time": time(build.end_time),
        "owner": build.owner,
        "engine": build.engine,
        "error": error_body(from_status(build.error)) if build.HasField("error") else None,
    }


def watched_view(event: pb.WatchBuildResponse) -> tuple[str, dict[str, Any]] | None:
    """What happened in a build: `build`, `progress` or `log`; None for what a newer server tells."""
    match event.WhichOneof("event"):
        case "build":
            return "build", build_view(event.build)
        case "progress":
            done = event.progress
            known = done.HasField("remaining_duration")
            return "progress", {
                "stage": word(done, "stage"),
                "progress": done.build_progress,
                "bytes_done": done.bytes_done,
                "bytes_total": done.bytes_total,
                "remaining_s": done.remaining_duration.ToTimedelta().total_seconds() if known else None,
            }
        case "log":
            return "log", {"text": event.log.text}
        case _:
            return None


def spec_view(spec: engine_pb2.ModelSpec) -> View:
    """What of a spec tells engines apart."""
    return {
        "name": spec.name,
        "source": spec.source.uri,
        "target": word(spec, "target"),
        "precision": word(spec, "precision"),
    }


def engine_view(engine: engine_pb2.Engine) -> View:
    """A published engine."""
    manifest = engine.manifest
    return {
        "reference": engine.reference,
        "name": engine.name,
        "aliases": list(engine.aliases),
        "spec": spec_view(engine.spec),
        "cache": cache_view(engine.spec.cache),
        "parameters": manifest.parameters,
        "size_bytes": engine.size_bytes,
        "verification": dict(manifest.verification),
        "verified_on": manifest.verified_on,
        "warnings": list(manifest.warnings),
        "signed": engine.signed,
        "owner": engine.owner,
        "create_time": time(engine.create_time),
    }


def loaded_view(engine: loaded_pb.LoadedEngine) -> View:
    """An engine in memory."""
    return {
        "reference": engine.reference,
        "cache": cache_view(engine.cache),
        "slots": engine.slots,
        "slots_in_use": engine.slots_in_use,
        "turns": engine.turns,
        "load_time": time(engine.load_time),
        "golden_margin": engine.golden_margin if engine.HasField("golden_margin") else None,
    }


def refused_view(engine: loaded_pb.RefusedEngine) -> View:
    """An engine that could not be loaded."""
    return {"reference": engine.reference, "error": error_body(from_status(engine.error))}


def cache_view(cache: engine_pb2.CacheGeometry) -> View:
    """Size of a cache, in tokens."""
    return {
        "sink_tokens": cache.sink_tokens,
        "window_tokens": cache.window_tokens,
        "chunk_tokens": cache.chunk_tokens,
    }


def usage_view(used: usage_pb.DayUsage) -> View:
    """What a principal used of an engine on a day."""
    return {
        "principal": used.principal,
        "day": used.day,
        "engine": used.engine,
        "turns": used.turns,
        "prompt_tokens": used.prompt_tokens,
        "generated_tokens": used.generated_tokens,
    }

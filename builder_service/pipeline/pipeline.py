"""A build as the list of its stages, in the build's own process. Knows nothing of databases."""

from __future__ import annotations

from builder_service.pipeline.compile import compile_engine
from builder_service.pipeline.export import export_engine
from builder_service.pipeline.messages import Order, Parent
from builder_service.pipeline.plan import make_plan
from builder_service.pipeline.publish import describe_engine, publish_files
from builder_service.pipeline.resolve import resolve_source
from builder_service.pipeline.verify import verify_engine
from builder_service.sources.folder import check_unchanged
from common.spec.manifest import Manifest


def run_build(order: Order, parent: Parent) -> Manifest | None:
    """Build an engine and store its files; returns its manifest without version, or None if the parent says no.

    Raises SinkServeError with the cause, where a person can do something about it.
    """
    source = resolve_source(order, parent)
    if not parent.may_build(source.key):
        return None
    order = order.model_copy(update={"spec": source.spec})
    plan = make_plan(order, source, parent)
    export_engine(order, plan, parent)
    compiled = compile_engine(order, source, plan, parent)
    figures = verify_engine(order, source, plan, compiled, parent)
    check_unchanged(source.files)
    manifest = describe_engine(order, source, plan, compiled, figures)
    if not parent.may_store(tuple(file.digest for file in manifest.files)):
        return None
    publish_files(order, plan, manifest.files, parent)
    return manifest

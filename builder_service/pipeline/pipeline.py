"""A build as the list of its stages, in the build's own process. Knows nothing of databases."""

from __future__ import annotations

from builder_service.pipeline.compile import compile_engine
from builder_service.pipeline.messages import Order
from builder_service.pipeline.plan import Parent
from builder_service.pipeline.stages import describe, make_plan, publish, resolve, verify, write_files
from builder_service.sources.folder import check_unchanged
from common.spec.manifest import Manifest


def run(order: Order, parent: Parent) -> Manifest | None:
    """Build an engine and store its files; returns its manifest without version, or None if the parent says no.

    Raises SinkServeError with the cause, where a person can do something about it.
    """
    source = resolve(order, parent)
    if not parent.may_build(source.key):
        return None
    plan = make_plan(order, source, parent)
    write_files(order, plan, parent)
    engine = compile_engine(order, source, plan, parent)
    figures = verify(order, plan, engine, parent)
    check_unchanged(source.files)
    manifest = describe(order, source, plan, figures)
    if not parent.may_store(tuple(file.digest for file in manifest.files)):
        return None
    publish(order, plan, manifest.files, parent)
    return manifest

"""Builds and their events to protobuf."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from builder_service.queue.build import Build, Stage, State
from builder_service.queue.events import Changed, Logged, Progressed, StoredEvent
from common.errors import InvalidArgument, Reason
from common.rpc.grpc_status import to_status
from common.rpc.wire import spec_to_wire
from common.spec.bounds import shown
from sinkserve.builder.v1 import builder_service_pb2 as pb


def build_to_wire(build: Build) -> pb.Build:
    """The message of a build."""
    message = pb.Build(
        name=build.name,
        spec=spec_to_wire(shown(build.spec)),
        state=pb.Build.State.Value(f"STATE_{build.state.name}"),
        stage=_stage(build.stage),
        progress=build.progress,
        create_time=_time(build.create_time),
        start_time=_time(build.start_time),
        end_time=_time(build.end_time),
        attempt=build.attempt,
        owner=build.principal,
    )
    if build.engine is not None:
        message.engine = build.engine
    if build.failure is not None:
        message.error.CopyFrom(to_status(build.failure.error()))
    return message


def state_from_wire(number: pb.Build.State.ValueType) -> State | None:
    """The state that is asked for; raises InvalidArgument for one that no build has."""
    if not number:
        return None
    found = pb.Build.State.DESCRIPTOR.values_by_number.get(number)
    if found is None:
        known = ", ".join(f"STATE_{state.name}" for state in State)
        raise InvalidArgument(Reason.INVALID_FIELD, f"state is {number}; it has to be one of {known}", field="state")
    return State(found.name.removeprefix("STATE_"))


def snapshot_to_wire(build: Build, now: datetime) -> pb.WatchBuildResponse:
    """The build as it is: the first message of a watch."""
    return pb.WatchBuildResponse(sequence=0, time=_time(now), build=build_to_wire(build))


def event_to_wire(stored: StoredEvent) -> pb.WatchBuildResponse:
    """The message of an event."""
    message = pb.WatchBuildResponse(sequence=stored.sequence, time=_time(stored.time))
    match stored.event:
        case Changed(build):
            message.build.CopyFrom(build_to_wire(build))
        case Progressed():
            message.progress.CopyFrom(_progress(stored.event))
        case Logged(text):
            message.log.text = text
    return message


def _progress(event: Progressed) -> pb.WatchBuildResponse.Progress:
    message = pb.WatchBuildResponse.Progress(
        stage=_stage(event.stage),
        stage_progress=event.stage_progress,
        build_progress=event.progress,
        bytes_done=event.bytes_done,
        bytes_total=event.bytes_total,
    )
    if event.remaining_s is not None:
        message.remaining_duration.FromMilliseconds(round(event.remaining_s * 1000))
    return message


def _stage(stage: Stage | None) -> pb.Build.Stage.ValueType:
    return pb.Build.Stage.Value(f"STAGE_{stage.name if stage else 'UNSPECIFIED'}")


def _time(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    message = Timestamp()
    message.FromDatetime(time)
    return message

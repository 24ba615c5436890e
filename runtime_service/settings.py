"""Settings of the runtime service: each default is written here, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import SettingsConfigDict

from common.settings import CommaSeparated, HostPort, HostPortOrNone, Settings
from runtime_service.domain.durability import Durability
from runtime_service.domain.options import MOST_SPECULATED


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


class RuntimeSettings(Settings):
    """What an operator of the runtime may change."""

    model_config = SettingsConfigDict(env_prefix="SINKSERVE_RUNTIME_")

    listen: HostPort = "127.0.0.1:50071"
    """Address of the gRPC server, HOST:PORT."""
    admin_listen: HostPortOrNone = "127.0.0.1:50072"
    """Where it serves gRPC with administration: loading and unloading engines; or `none`."""
    metrics_listen: HostPortOrNone = "127.0.0.1:9471"
    """Where it serves Prometheus metrics and health over HTTP, HOST:PORT; or `none`."""
    trusted_keys: Annotated[tuple[Path, ...], *CommaSeparated] = ()
    """PEM files of public keys, separated by commas; no engine is loaded but what one of them signed. Unset: any is."""
    engines: Annotated[tuple[str, ...], *CommaSeparated] = ()
    """Engine references that are loaded before the service is ready, separated by commas."""
    follow_s: Annotated[float, Field(gt=0)] = 10.0
    """How often aliases of `engines` are looked up; a new version is loaded beside the old one."""
    load_on_demand: bool = False
    """Load an engine when a session asks for it."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads that one engine computes with; 0: one for each core."""
    gpu_memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the GPU's free memory that an engine's slots may take, once its weights are loaded."""
    principal_header: str = ""
    """Metadata key in which a trusted proxy names the caller, who owns what it makes; empty: no such proxy."""
    max_sessions: Annotated[int, Field(ge=1)] = 1024
    """Sessions in memory at once; idle ones make room for others, and where none is, principals have equal shares."""
    waiting_turns: Annotated[int, Field(ge=0)] = 1024
    """Turns of one engine that may wait for a slot; one more is refused."""
    waiting_session_bytes: Annotated[int, Field(ge=0)] = 16 << 20
    """Memory that the waiting turns of one session may take; one more is refused, unless it is the only one."""
    waiting_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    """Memory that the turns of all sessions that wait or run may take, as far as clients sent it."""
    parked_bytes: Annotated[int, Field(ge=0)] = 1 << 30
    """Host memory, for each engine, for caches of sessions that have no slot."""
    parked_file_bytes: Annotated[int, Field(ge=0)] = 4 << 30
    """Local disk, under SINKSERVE_HOME, for caches that leave host memory."""
    durability: Annotated[Durability, BeforeValidator(_upper)] = Durability.TOKENS
    """What of a session outlives the server, unless it says so itself: `none`, `tokens`, or `tokens_and_kv`."""
    snapshot_turns: Annotated[int, Field(ge=0)] = 16
    """With `tokens_and_kv`: the cache is stored after every so many turns; 0: only when a session leaves its server."""
    max_replay_tokens: Annotated[int, Field(ge=1)] = 65536
    """Most tokens that are fed again to recompute a lost cache."""
    max_new_tokens_default: Annotated[int, Field(ge=1)] = 1024
    """Tokens of a reply where neither the request nor the checkpoint says how many."""
    max_new_tokens_limit: Annotated[int, Field(ge=1)] = 16384
    """Most tokens of a reply that a request may ask for."""
    temperature_default: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Temperature where neither the request nor the checkpoint says how to sample; 0: greedy, as in transformers."""
    speculated_tokens: Annotated[int, Field(ge=0, le=MOST_SPECULATED)] = 0
    """Most tokens of a reply that are guessed and checked in one step, where the request does not say; 0: none."""
    stall_s: Annotated[float, Field(gt=0)] = 0.1
    """How long a piece of one session's input may hold up those who decode."""
    slow_form_s: Annotated[float, Field(gt=0)] = 2.0
    """How long it may take to find what may come next in a reply with a form, before its turn ends."""
    kept_events: Annotated[int, Field(ge=16)] = 4096
    """Events that a session keeps for `after_sequence`."""
    kept_event_bytes: Annotated[int, Field(ge=4096)] = 1 << 20
    """Bytes of events that a session keeps for `after_sequence`."""
    unread_events: Annotated[int, Field(ge=1)] = 256
    """Events that wait for a client to read before its turn pauses, and others may have its slot."""
    slow_reader_s: Annotated[float, Field(gt=0)] = 60.0
    """How long a client has to read what waited when its turn paused, or its stream ends.
    """
    heartbeat_s: Annotated[float, Field(gt=0)] = 30.0
    """A stream on which nothing was sent for this long gets a heartbeat."""
    max_stream_age_s: Annotated[float, Field(ge=0)] = 0.0
    """A stream of this age is told to go away when no turn runs, so that its client finds new servers; 0: never."""
    stream_leave_s: Annotated[float, Field(ge=0)] = 30.0
    """How long a client may stay on a stream after it was told to go away because of the stream's age."""
    lease_s: Annotated[float, Field(ge=1)] = 15.0
    """Lease: how long a server keeps sessions without renewing it; then others may claim them. The same for all."""
    reap_s: Annotated[float, Field(gt=0)] = 5.0
    """How often sessions are looked for whose `delete_after_idle_duration` has passed."""
    keep_usage_days: Annotated[int, Field(ge=0)] = 400
    """Days of which usage is kept, by principal and engine: a year, and time to bill it. 0: for ever."""
    drain_grace_s: Annotated[float, Field(ge=0)] = 30.0
    """How long running turns may go on when the service stops."""

"""What a session is: what a client asks for, what it becomes when it is created, what is kept. Plain data and rules."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import TypeAdapter

from common.controls import check_name
from common.db.database import utc_now
from common.errors import InvalidArgument, Reason
from common.spec.chat.template_choices import Value
from common.spec.published_engine import PublishedEngine
from common.text.tools.values import Tool
from common.window import Geometry, SessionWindow
from runtime_service.domain.durability import Durability
from runtime_service.domain.recall import PastTurn, check_budget
from runtime_service.domain.tools import check_tools
from runtime_service.domain.turn import Result

SESSION_ID = re.compile(r"[a-z0-9-]{1,64}")
FIELD = "open.new_session"
IDLE_FIELD = "options.delete_after_idle_duration"
RECALL_FIELD = "options.recall_tokens"
MOST_LABELS, LONGEST_KEY, LONGEST_VALUE = 32, 63, 255
LONGEST_SYSTEM_PROMPT = 1 << 17  # bytes; taking in the tokens of more would hold up every other session
LONGEST_IDLE_S = 100 * 365 * 86400.0


class OnFull(StrEnum):
    """What happens when the cache is full; names as on the wire."""

    EVICT = "EVICT"
    ERROR = "ERROR"
    NOTIFY = "NOTIFY"


class OnDisconnect(StrEnum):
    """What a lost connection does to the turns that run or wait; names as on the wire."""

    CONTINUE = "CONTINUE"
    CANCEL = "CANCEL"


@dataclass(frozen=True)
class SessionOptions:
    """How a session behaves. What is None in a request is filled in when the session is created."""

    pin_system_prompt: bool | None = None
    sink_tokens: int | None = None
    window_tokens: int | None = None
    on_full: OnFull = OnFull.EVICT
    delete_after_idle_s: float | None = None
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    durability: Durability | None = None
    recall_tokens: int = 0
    template_variables: Mapping[str, Value] = field(default_factory=dict)
    """In a request those that are not the defaults, else of all that have choices."""
    tools: tuple[Tool, ...] = ()
    """What replies may call."""


@dataclass(frozen=True)
class NewSession:
    """A session to create."""

    engine: str
    session_id: str = ""
    system_prompt: str = ""
    options: SessionOptions = field(default_factory=SessionOptions)
    labels: Mapping[str, str] = field(default_factory=dict)

    def digest(self) -> bytes:
        """Tells the same request, sent again, from another under the same id."""
        variables = dict(sorted(self.options.template_variables.items()))
        options = replace(self.options, template_variables=variables)
        body = replace(self, labels=dict(sorted(self.labels.items())), options=options)
        later = {"template_variables": bool(variables), "recall_tokens": self.options.recall_tokens != 0}
        later |= {"tools": bool(self.options.tools)}
        unsaid = {name for name, said in later.items() if not said}  # so it was before there were any
        return hashlib.sha256(_NEW_SESSION.dump_json(body, exclude={"options": unsaid})).digest()

    def check(self) -> None:
        """Raise InvalidArgument for what no engine would accept."""
        if self.session_id and not SESSION_ID.fullmatch(self.session_id):
            raise _invalid(f"{FIELD}.session_id", "is not 1 to 64 lower-case letters, digits and '-'", self.session_id)
        check_labels(self.labels, f"{FIELD}.labels")
        if (size := len(self.system_prompt.encode())) > LONGEST_SYSTEM_PROMPT:
            raise _invalid(
                f"{FIELD}.system_prompt", f"may have at most {LONGEST_SYSTEM_PROMPT} bytes", f"{size} bytes long"
            )
        check_idle(self.options.delete_after_idle_s, f"{FIELD}.{IDLE_FIELD}")
        check_tools(self.options.tools)


def check_labels(labels: Mapping[str, str], field: str) -> None:
    """Raise InvalidArgument at `field` for labels that no session may have."""
    if len(labels) > MOST_LABELS:
        raise _invalid(field, f"may be at most {MOST_LABELS}", len(labels))
    for key, value in labels.items():
        check_name(key, field, LONGEST_KEY, least=1)
        check_name(value, f"{field}[{key!a}]", LONGEST_VALUE)


def check_idle(idle_s: float | None, field: str) -> None:
    """Raise InvalidArgument at `field` for a time after which no session can be deleted."""
    if idle_s is not None and not 0 < idle_s <= LONGEST_IDLE_S:
        raise _invalid(field, "has to be above 0 and at most 100 years", idle_s)


_NEW_SESSION = TypeAdapter(NewSession)


@dataclass(frozen=True)
class Session:
    """A session as it is kept. `key` is the database's, `epoch` counts how often it was opened from there.

    What its model sees is told as in the `Usage` of its last turn.
    """

    principal: str
    session_id: str
    engine_name: str
    engine_version: int
    engine_digest: str
    options: SessionOptions
    labels: Mapping[str, str]
    digest: bytes
    opening: tuple[int, ...]
    pinned: bool
    position: int
    created_at: datetime
    last_active_at: datetime
    expires_at: datetime | None = None
    turns: int = 0
    epoch: int = 0
    last_sequence: int = 0
    pins: tuple[PastTurn, ...] = ()
    window_start_position: int = 0
    oldest_visible_turn: str = ""
    key: int = 0

    @property
    def name(self) -> str:
        """sessions/ID."""
        return f"sessions/{self.session_id}"

    @property
    def engine(self) -> str:
        """NAME@VERSION."""
        return f"{self.engine_name}@{self.engine_version}"

    @property
    def window(self) -> SessionWindow:
        """What the session froze before its first token."""
        assert self.options.sink_tokens is not None
        assert self.options.window_tokens is not None
        return SessionWindow(self.options.sink_tokens, self.options.window_tokens)

    @property
    def survives_disconnect(self) -> bool:
        """Whether its turns go on when the connection is lost."""
        return self.options.on_disconnect is OnDisconnect.CONTINUE

    @property
    def is_kept(self) -> bool:
        """Whether anything of what is said outlives the server."""
        return self.options.durability is not Durability.NONE

    @property
    def evicts(self) -> bool:
        """Whether the oldest tokens leave when the cache is full."""
        return self.options.on_full is not OnFull.ERROR

    @property
    def notifies(self) -> bool:
        """Whether a turn says what left the window in it."""
        return self.options.on_full is OnFull.NOTIFY

    @property
    def evicted_tokens(self) -> int:
        """Tokens that have left the window."""
        return self.window_start_position - self.window.sinks

    def after(self, result: Result, ended_at: datetime) -> Session:
        """The session after one more turn."""
        usage = result.usage
        assert usage.window_start_position is not None, usage
        return replace(
            self,
            position=usage.position,
            window_start_position=usage.window_start_position,
            oldest_visible_turn=usage.oldest_visible_turn,
            turns=self.turns + 1,
            last_sequence=result.finished_sequence,
            last_active_at=ended_at,
        )

    def expiry(self, now: datetime) -> datetime | None:
        """When it is deleted if nobody speaks to it from `now` on."""
        idle = self.options.delete_after_idle_s
        return None if idle is None else now + timedelta(seconds=idle)


def begin(  # noqa: PLR0917 - each is something else
    asked: NewSession,
    key: tuple[str, str],
    engine: PublishedEngine,
    geometry: Geometry,
    opening: tuple[int, ...],
    variables: Mapping[str, Value],
    durability: Durability,
) -> Session:
    """The session to create; `key` is its principal and id, `variables` the template's, `durability` the server's.

    Raises what `settle` does, and InvalidArgument for recall in a session of which nothing is kept.
    """
    options, pinned = settle(asked, geometry, len(opening))
    options = replace(options, durability=options.durability or durability, template_variables=variables)
    if options.recall_tokens and options.durability is Durability.NONE:
        what = "has to be 0 in a session of which nothing is kept (durability none)"
        raise _invalid(f"{FIELD}.{RECALL_FIELD}", what, options.recall_tokens)
    now = utc_now()
    session = Session(
        principal=key[0],
        session_id=key[1],
        engine_name=engine.name,
        engine_version=engine.version,
        engine_digest=engine.digest,
        options=options,
        labels=dict(asked.labels),
        digest=asked.digest(),
        opening=opening,
        pinned=pinned,
        position=len(opening),
        created_at=now,
        last_active_at=now,
    )
    return replace(session, window_start_position=session.window.start(len(opening)))


def settle(asked: NewSession, geometry: Geometry, opening: int) -> tuple[SessionOptions, bool]:
    """Options with everything filled in, and whether the system prompt is pinned; `opening` is its tokens.

    Raises InvalidArgument for sinks or a window that the engine does not have, for a system prompt that has to be
    pinned and does not fit, and for more tokens to recall than the window allows.
    """
    options = asked.options
    sinks = _within(options.sink_tokens, "sink_tokens", 0, geometry.sinks)
    window = _within(options.window_tokens, "window_tokens", 1, geometry.window)
    check_budget(options.recall_tokens, window, f"{FIELD}.{RECALL_FIELD}")
    fits = bool(asked.system_prompt or options.tools) and opening <= sinks
    if options.pin_system_prompt and asked.system_prompt and not fits:
        beside = "the template's and the tools'" if options.tools else "the template's"
        raise InvalidArgument(
            Reason.SYSTEM_PROMPT_EXCEEDS_SINKS,
            f"{FIELD}.system_prompt has {opening} tokens with {beside}, and the session has {sinks} sinks; "
            "shorten it, or leave pin_system_prompt unset",
            field=f"{FIELD}.system_prompt",
            tokens=opening,
            sinks=sinks,
        )
    pinned = fits and options.pin_system_prompt is not False
    if pinned and options.sink_tokens is None:
        sinks = opening
    return replace(options, sink_tokens=sinks, window_tokens=window), pinned


def _within(asked: int | None, name: str, low: int, high: int) -> int:
    if asked is not None and not low <= asked <= high:
        raise _invalid(f"{FIELD}.options.{name}", f"has to be {low} to {high}, which is the engine's", asked)
    return high if asked is None else asked


def _invalid(field: str, what: str, value: object) -> InvalidArgument:
    shown = str(value)[:100]
    return InvalidArgument(Reason.INVALID_FIELD, f"{field} {what}; it is {shown!r}", field=field, value=shown)

"""A session, turns and how they end, for tests of what keeps them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from common.engine.engine import SlotState
from common.window import Geometry, SessionWindow
from runtime_service.domain.options import GenerationOptions, RequestedOptions
from runtime_service.domain.session import OnDisconnect, OnFull, Session, SessionOptions
from runtime_service.domain.turn import FinishReason, Result, Timing, Turn, TurnInput, TurnRequest, Usage
from tests.samples.whole_manifests import DIGEST

NOON = datetime(2026, 1, 2, 12, 0, 0, 5, tzinfo=UTC)
SESSION = Session(
    principal="local",
    session_id="a",
    engine_name="demo",
    engine_version=1,
    engine_digest=DIGEST,
    options=SessionOptions(
        sink_tokens=3,
        window_tokens=5,
        on_full=OnFull.ERROR,
        delete_after_idle_s=60.0,
        on_disconnect=OnDisconnect.CANCEL,
    ),
    labels={"k": "v", "ä": "ö"},
    digest=b"\x01" * 32,
    opening=(1, 2),
    pinned=True,
    position=2,
    window_start_position=3,
    created_at=NOON,
    last_active_at=NOON,
)


def turn(number: int, **input_: object) -> Turn:
    given = TurnInput(**(input_ or {"text": "hi"}))  # type: ignore[arg-type]
    asked = TurnRequest(f"t{number}", given, RequestedOptions(seed=2**64 - 1, stop=("x",)))
    return Turn(number, asked, GenerationOptions(max_new_tokens=4, seed=2**53 - 1, stop=("x",)), NOON)


def finished(turn: Turn, prompt: int, generated: tuple[int, ...], position: int) -> Turn:
    result = Result(
        reason=FinishReason.STOP,
        usage=Usage(prompt, len(generated), position, 1, window_start_position=max(3, position - 5)),
        timing=Timing(0.1, 0.2, 0.3, 0.4),
        prompt_tokens=prompt,
        text="hello",
        token_ids=generated,
        stop_sequence="x",
        started_sequence=10,
        finished_sequence=20,
    )
    return replace(turn, result=result, ended_at=NOON + timedelta(seconds=1))


def after(session: Session, turn: Turn) -> Session:
    assert turn.result is not None
    assert turn.ended_at is not None
    return session.after(turn.result, turn.ended_at)


def slot_state(position: int = 9, *, rows: int = 7, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> SlotState:
    """A state with something in it; [2, 2, rows, 3]."""
    numbers = np.random.default_rng(seed).integers(0, 1000, (2, 2, 2, rows, 3)).astype(dtype)
    return SlotState(position, SessionWindow(2, 5), Geometry(2, 5, 3, 4), numbers[0], numbers[1])

"""Fork, rewind: what a client asks for, over the sessions in memory and in the database."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import replace

from sqlalchemy.exc import IntegrityError

from common.auth.principal import EVERY_ENGINE, EngineScope
from common.auth.quotas import UNBOUNDED, Quotas
from common.catalog.rows import not_found
from common.db.database import Database, utc_now
from common.errors import Aborted, FailedPrecondition, InvalidArgument, Reason
from common.spec.manifest import TOKENIZER_PATH, Manifest
from common.spec.published_engine import PublishedEngine
from runtime_service.domain.recall import most_recalled
from runtime_service.domain.session import SESSION_ID, Session, SessionOptions
from runtime_service.engines.registry import EngineRegistry
from runtime_service.sessions.registry import SessionRegistry
from runtime_service.storage.branches import SessionBranches
from runtime_service.storage.claims import check_kept
from runtime_service.storage.repository import session_exists


class Branches:
    """Knows no streams: the subscriber of a session that is rewound loses it (SESSION_TAKEN_OVER)."""

    def __init__(self, sessions: SessionRegistry, engines: EngineRegistry, database: Database) -> None:
        self._sessions = sessions
        self._store = sessions.store
        self._engines = engines
        self._branches = SessionBranches(database)

    async def rewind(self, principal: str, session_id: str, turn_id: str, *, drop_turn: bool) -> Session:
        """Take a session back to the end of a turn, or to its beginning with `drop_turn`.

        A turn that runs or waits behind it is dropped; a stream on it ends ABORTED (SESSION_TAKEN_OVER). Raises
        NotFound (SESSION_NOT_FOUND, TURN_NOT_FOUND).
        """
        if not turn_id:
            what = "turn_id has to name the turn to go back to; its last turns are in ListTurns"
            raise InvalidArgument(Reason.INVALID_FIELD, what, field="turn_id")
        name = f"sessions/{session_id}"
        error = Aborted(Reason.SESSION_TAKEN_OVER, f"{name} was rewound", session=name)
        check_kept((await self._sessions.get(principal, session_id))[0])
        async with self._sessions.held((principal, session_id), error) as held:
            rewound, snapshots = await self._store.write(self._branches.rewind, held, turn_id, drop_turn=drop_turn)
            await self._store.drop_cache(rewound, snapshots)
            return rewound

    async def fork(  # noqa: PLR0917 - what the request has
        self,
        principal: str,
        session_id: str,
        turn_id: str,
        new_id: str,
        engine: str,
        scope: EngineScope = EVERY_ENGINE,
        quotas: Quotas = UNBOUNDED,
    ) -> Session:
        """A new session that begins as another is, or was at the end of a turn; that one goes on untouched.

        With `engine` it goes on with another version, which has to have the same tokens and template. The same
        request again finds the session. Raises NotFound (SESSION_NOT_FOUND, TURN_NOT_FOUND, ENGINE_NOT_FOUND),
        AlreadyExists, FailedPrecondition (TURN_NOT_FINISHED, ENGINE_INCOMPATIBLE), ResourceExhausted (QUOTA_EXCEEDED).
        """
        if new_id and not SESSION_ID.fullmatch(new_id):
            what = f"session_id is not 1 to 64 lower-case letters, digits and '-'; it is {new_id[:100]!r}"
            raise InvalidArgument(Reason.INVALID_FIELD, what, field="session_id")
        source, _ = await self._sessions.get(principal, session_id)
        check_kept(source)
        digest = hashlib.sha256(f"fork\n{source.name}\n{turn_id}\n{engine}".encode()).digest()
        if new_id and (existing := await self._existing(principal, new_id, digest)) is not None:
            return existing
        now = utc_now()
        target = replace(
            await self._on_engine(source, engine, scope),
            session_id=new_id or secrets.token_hex(16),
            digest=digest,
            created_at=now,
            last_active_at=now,
            expires_at=source.expiry(now),
        )
        return await self._fork(source, turn_id, target, quotas)

    async def _existing(self, principal: str, session_id: str, digest: bytes) -> Session | None:
        found = await self._store.find((principal, session_id))
        if found is not None and found.digest != digest:
            raise session_exists(session_id)
        return found

    async def _on_engine(self, source: Session, engine: str, scope: EngineScope) -> Session:
        if not engine:
            return source
        before = await self._engines.resolve(source.engine, "name")
        after = await self._engines.resolve(engine, "engine", scope)
        check_same_words(before.manifest, after, tools=bool(source.options.tools))
        return replace(
            source,
            engine_name=after.name,
            engine_version=after.version,
            engine_digest=after.digest,
            options=_fitting(source, after),
        )

    async def _fork(self, source: Session, turn_id: str, target: Session, quotas: Quotas) -> Session:
        try:
            kept = await self._store.write(self._branches.fork, source, turn_id, target, quotas)
        except IntegrityError:
            existing = await self._existing(target.principal, target.session_id, target.digest)
            if existing is None:
                raise not_found(target.engine, "it was deleted") from None
            return existing
        if kept.engine_digest == source.engine_digest:
            await self._sessions.copy_cache(source, kept)
        return kept


def check_same_words(before: Manifest, after: PublishedEngine, *, tools: bool = True) -> None:
    """Raise FailedPrecondition (ENGINE_INCOMPATIBLE) unless both read the same tokens, and frame turns alike; and where
    there are `tools`, these too.
    """
    manifest = after.manifest
    differ = [
        what
        for what, one, other in (
            ("vocabulary", before.architecture.vocabulary, manifest.architecture.vocabulary),
            ("tokenizer", _tokenizer(before), _tokenizer(manifest)),
            ("template", _turns(before, tools=tools), _turns(manifest, tools=tools)),
        )
        if one != other
    ]
    if differ:
        message = f"{after.reference} has another {' and another '.join(differ)} than the session's engine"
        raise FailedPrecondition(Reason.ENGINE_INCOMPATIBLE, message, engine=after.reference)


def _turns(manifest: Manifest, *, tools: bool) -> object:
    """How turns are framed; what is only said of it, and what nobody uses, may differ between releases."""
    if manifest.text is None:
        return None
    unused = dict.fromkeys(("no_tools",) if tools else ("no_tools", "tools", "reasoning"), True)
    return manifest.text.model_dump(
        exclude={"warnings": True, "template": unused, "variants": {"__all__": {"template": unused}}}
    )


def _tokenizer(manifest: Manifest) -> str | None:
    return next((file.digest for file in manifest.files if file.path == TOKENIZER_PATH), None)


def _fitting(source: Session, engine: PublishedEngine) -> SessionOptions:
    """The session's options with no more sinks and window than the engine has, nor more to recall than those allow."""
    geometry, options = engine.manifest.geometry, source.options
    window = min(source.window.window, geometry.window)
    return replace(
        options,
        sink_tokens=min(source.window.sinks, geometry.sinks),
        window_tokens=window,
        recall_tokens=min(options.recall_tokens, most_recalled(window)),
    )

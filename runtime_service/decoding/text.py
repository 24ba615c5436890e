"""Between what people say and tokens, for one engine: the turn template around contents, and bytes of tokens.

Knows the tokenizer and the derived template; knows nothing of sessions, positions or the wire. What people say is
encoded apart from the template, and never becomes a control token.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from common.errors import InvalidArgument, Reason
from common.spec.manifest import Manifest, TurnTemplate
from common.text.content import ContentEncoder, control_tokens, template_tokens
from common.text.vocabulary import NO_TOKENIZER, Vocabulary
from runtime_service.decoding.detokenizer import Detokenizer
from runtime_service.domain.turn import Message

MESSAGES = "turn.messages.messages"
SYSTEM_PROMPT = "open.new_session.system_prompt"


class Text:
    """Text of one engine. Has no state of its own: safe to share between sessions and threads.

    Without a template (`accepts_text` false) turns come as token ids; without a tokenizer (`decodes_text` false)
    replies go out as token ids alone.
    """

    def __init__(self, tokenizer_json: bytes | None, manifest: Manifest) -> None:
        tokenizer = json.loads(tokenizer_json) if tokenizer_json else NO_TOKENIZER
        self._reference = manifest.reference
        self._decodes = tokenizer_json is not None
        self._vocabulary = Vocabulary(tokenizer)
        self._template = manifest.text.template if manifest.text else None
        used = template_tokens(self._template) if self._template else frozenset()
        self._control = control_tokens(tokenizer, used.union(manifest.end_token_ids))
        self._encoder = ContentEncoder(tokenizer, self._control) if self._template else None

    @property
    def accepts_text(self) -> bool:
        """Whether turns can be given as text and messages."""
        return self._template is not None

    @property
    def decodes_text(self) -> bool:
        """Whether replies have text."""
        return self._decodes

    def opening(self, system_prompt: str = "") -> tuple[int, ...]:
        """First tokens of a conversation. Raises InvalidArgument where a system prompt cannot be given."""
        if not system_prompt:
            return self._template.opening if self._template else ()
        template = self._required(SYSTEM_PROMPT)
        if template.system_before is None:
            message = f"system_prompt is set, but the chat template of {self._reference} has no place for one"
            raise InvalidArgument(Reason.INVALID_FIELD, message, field=SYSTEM_PROMPT)
        return (*template.system_before, *self.encode(system_prompt), *template.system_after)

    def user(self, text: str) -> tuple[int, ...]:
        """Tokens of what a user says, in its wrapping. Raises InvalidArgument (TEXT_UNSUPPORTED)."""
        template = self._required("turn.text")
        return (*template.user_before, *self.encode(text), *template.user_after)

    def messages(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Tokens of several messages in order; where a reply is wanted, `assistant_before` comes next.

        Raises InvalidArgument: TEXT_UNSUPPORTED, or INVALID_FIELD for no messages or an unknown role.
        """
        template = self._required(MESSAGES)
        if not messages:
            raise InvalidArgument(Reason.INVALID_FIELD, "messages is empty; at least one is needed", field=MESSAGES)
        wrapping = {
            "user": (template.user_before, template.user_after),
            "assistant": (template.assistant_before, template.assistant_after),
        }
        tokens: list[int] = []
        for index, message in enumerate(messages):
            if message.role not in wrapping:
                raise _unknown_role(index, message.role)
            before, after = wrapping[message.role]
            tokens += (*before, *self.encode(message.content), *after)
        return tuple(tokens)

    @property
    def assistant_before(self) -> tuple[int, ...]:
        """Tokens before a reply."""
        return self._template.assistant_before if self._template else ()

    @property
    def closing(self) -> tuple[int, ...]:
        """Tokens after a reply."""
        return self._template.assistant_after if self._template else ()

    def closing_after(self, last_token_id: int | None) -> tuple[int, ...]:
        """Tokens after a reply whose last token is `last_token_id`: a control token of the closing is not doubled.

        What stands before it in the closing, such as the space of `" </s>"`, is left out with it.
        """
        closing = self.closing
        if last_token_id in self._control and last_token_id in closing:
            return closing[closing.index(last_token_id) + 1 :]
        return closing

    def encode(self, content: str) -> tuple[int, ...]:
        """Tokens of a content alone."""
        template = self._required("turn.text")
        assert self._encoder
        return self._encoder.encode(content.strip() if template.strip_content else content)

    def fewest(self, content: str) -> int:
        """How many tokens a content has at least; cheap, whatever its length."""
        if self._template is None or self._encoder is None:
            return 0
        return self._encoder.fewest(content.strip() if self._template.strip_content else content)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token, not always whole characters; none without a tokenizer."""
        return self._vocabulary.token_bytes(token_id)

    def detokenizer(self) -> Detokenizer:
        """A fresh one, for one reply."""
        return Detokenizer(self._vocabulary)

    def _required(self, field: str) -> TurnTemplate:
        if self._template is None:
            message = f"{field} is text, but {self._reference} takes token ids only"
            raise InvalidArgument(Reason.TEXT_UNSUPPORTED, message, field=field)
        return self._template


def _unknown_role(index: int, role: str) -> InvalidArgument:
    field = f"{MESSAGES}[{index}].role"
    message = f"{field} is {role!r}; it has to be 'user' or 'assistant'"
    return InvalidArgument(Reason.INVALID_FIELD, message, field=field, role=role)

"""Converts a sentencepiece model, `tokenizer.model`, to a tokenizer.json, and compares their tokens.

Source: sentencepiece, `sentencepiece_model.proto`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from builder_service.checkpoint.files import invalid

_BPE = 2
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
SAMPLES = (
    "Hello there! What is 2 + 2?",
    " leading and  double   spaces ",
    "Grüße aus Köln, 世界 🙂 и мир",
    "def f(x):\n    return x + 1\n\n\tprint(f(1_000))\n",
    "1. one\n2. two (and a half); 'quoted', \"twice\"",
)


def convert_sentencepiece(path: Path) -> tuple[bytes, dict[str, Any]]:
    """A tokenizer.json of the same tokens, and what its tokenizer_config.json would say.

    Raises InvalidArgument (CHECKPOINT_INVALID) for what is no such file, and where the conversion gives other tokens
    than sentencepiece itself.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2  # noqa: PLC0415 - rarely needed

    try:
        data = path.read_bytes()
        own = SentencePieceProcessor(model_proto=data)
        described = sentencepiece_model_pb2.ModelProto.FromString(data)  # type: ignore[attr-defined]
    except Exception as error:
        raise invalid(f"{path.name} is not a sentencepiece model: {error}", file=path.name) from error
    tokenizer = _converted(described)
    for text in SAMPLES:
        found, wanted = tokenizer.encode(text, add_special_tokens=False).ids, own.encode(text)
        if found != wanted:
            message = (
                f"{path.name} cannot be converted to a tokenizer.json: {text!r} is {found}, and has to be {wanted}"
            )
            raise invalid(message, file=path.name)
    named = {"bos_token": own.bos_id(), "eos_token": own.eos_id()}
    config = {name: own.id_to_piece(token) for name, token in named.items() if token >= 0}
    return tokenizer.to_str().encode(), config | {"add_bos_token": "bos_token" in config}


def _converted(described: Any) -> Tokenizer:  # noqa: ANN401 - a message without types
    spec = described.normalizer_spec
    tokenizer = Tokenizer(_model(described))
    tokenizer.normalizer = normalizers.Sequence(_normalizing(spec))
    decoding = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*decoding, *([decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else [])])
    special = [piece.piece for piece in described.pieces if piece.type in {_UNKNOWN, _CONTROL}]
    plain = [piece.piece for piece in described.pieces if piece.type == _USER_DEFINED]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    normalized = not spec.add_dummy_prefix  # otherwise the library would put the prefix before them
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=normalized) for text in plain])
    return tokenizer


def _model(described: Any) -> models.Model:  # noqa: ANN401 - likewise
    pieces = [(piece.piece, piece.score) for piece in described.pieces]
    trainer = described.trainer_spec
    if trainer.model_type != _BPE:
        return models.Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback)
    ids = {piece: token for token, (piece, _) in enumerate(pieces)}
    unknown = pieces[trainer.unk_id][0]
    return models.BPE(
        ids, _merges(ids, dict(pieces)), unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback
    )


def _merges(ids: dict[str, int], scores: dict[str, float]) -> list[tuple[str, str]]:
    """Pairs that become a piece, the piece of the highest score first."""
    pairs = [
        (piece[:at], piece[at:])
        for piece in ids
        for at in range(1, len(piece))
        if piece[:at] in ids and piece[at:] in ids
    ]
    return sorted(pairs, key=lambda pair: (-scores["".join(pair)], ids[pair[0]], ids[pair[1]]))


def _normalizing(spec: Any) -> list[normalizers.Normalizer]:  # noqa: ANN401 - likewise
    """Sentencepiece's own steps, in its order."""
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return [*steps, normalizers.Replace(" ", "▁")]

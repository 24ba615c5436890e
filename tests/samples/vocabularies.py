"""Small tokenizers of every kind that checkpoints come with, as the bytes of their tokenizer.json."""

import json
from functools import cache

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CONTROL = ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
BEGIN, END, SYSTEM, USER, ASSISTANT = range(5)
THINK, END_THINK = "<think>", "</think>"
CORPUS = [
    "Hello there! What is two plus two? It is four, of course. My cat is called Miso and sleeps all day.",
    "user assistant system You are a helpful assistant. Grüße aus Köln, 世界 and 🙂 are here.",
    "def f(x):\n    return x\n\nprint(f(1))\n",
    "Stop!\n\nGo on!\n\nAnd then?\n\n",
    " ".join(str(number) for number in range(60)),
] * 8
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@cache
def byte_level(control: tuple[str, ...] = CONTROL, added: tuple[str, ...] = ()) -> bytes:
    """Byte-level BPE as in Llama 3 and GPT-2: control tokens lie in the model's vocabulary too, `added` ones do not."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"), "isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(control),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([THINK, END_THINK, *added])
    return _json(tokenizer)


@cache
def sentencepiece() -> bytes:
    """BPE over pieces with byte fallback and a space put before every text, as in Llama 2."""
    pieces, merges = _merges()
    names = ["<unk>", "<s>", "</s>", *BYTES, *pieces]
    vocabulary = {piece: token_id for token_id, piece in enumerate(dict.fromkeys(names))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    return _json(tokenizer)


@cache
def unigram() -> bytes:
    """Unigram with byte fallback behind Metaspace: control tokens are pieces that a text could match."""
    pieces, _ = _merges()
    names = dict.fromkeys(["<unk>", "<s>", "</s>", *BYTES, *pieces])
    vocabulary = [(piece, -float(index) / 100 if index > 2 else 0.0) for index, piece in enumerate(names)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in ("<unk>", "<s>", "</s>")])
    return _json(tokenizer)


@cache
def _merges() -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges that BPE learns over the corpus with spaces as lower blocks; line breaks are bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted((piece for piece in model["vocab"] if "\n" not in piece), key=model["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in model["merges"] if "\n" not in left + right]


def _json(tokenizer: Tokenizer) -> bytes:
    return bytes(tokenizer.to_str().encode())

"""A small byte-level BPE tokenizer in Hugging Face's layout, with a chat template that only ever appends."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ("<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>", "<|system|>")
SMALLEST_VOCABULARY = 256 + len(SPECIALS)
CHAT_TEMPLATE = (
    "{{ '<s>' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXT = (
    "The quick brown fox jumps over the lazy dog and says hello to the cat.",
    "What is the name of my cat? The name of your cat is Miso.",
    "How are you today? I am well, thank you. And what shall we talk about?",
    "Grüße aus Köln, 你好, мир, 🙂 and a line of numbers: 0 1 2 3 4 5 6 7 8 9.",
)


def write_tokenizer(folder: Path, vocab: int, *, chat_template: bool = True) -> None:
    """Write tokenizer.json and tokenizer_config.json; at most `vocab` tokens, at least SMALLEST_VOCABULARY."""
    assert vocab >= SMALLEST_VOCABULARY, vocab
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(text, special=True, normalized=False) for text in SPECIALS]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=min(vocab, 384), special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    fields = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
    }
    fields |= {"chat_template": CHAT_TEMPLATE} if chat_template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields, indent=2, ensure_ascii=False))

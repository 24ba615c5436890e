"""The demo model's tokenizer and the small files of its Hugging Face folder."""

import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer

from demo import words
from demo.dialogues import conversation

BEGIN, END, SYSTEM, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
CONTROL = (BEGIN, END, SYSTEM, USER, ASSISTANT)
SIZE = 1024
PIECES = r" ?[0-9]{1,2}|'[a-z]+| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\p{N}|\s+"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(seed: int = 0) -> Tokenizer:
    """Byte-level BPE of 1024 tokens, learned from the dialogues; every number up to 99 becomes one token."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Sequence(
        [Split(Regex(PIECES), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = ByteLevelDecoder()
    alphabet = sorted(ByteLevel.alphabet())
    trainer = BpeTrainer(vocab_size=SIZE, special_tokens=list(CONTROL), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_corpus(seed), trainer)
    return tokenizer


def _corpus(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    numbers = " ".join(str(n) for n in range(100))
    for turn in islice(conversation(rng), 60_000):
        yield turn.user
        yield turn.assistant
    for _ in range(2_000):
        yield " " + numbers
        yield " ".join((*words.SYSTEM, *words.CAPITALS.values()))


def write_folder(out: Path, tokenizer: Tokenizer, config: dict[str, object]) -> None:
    """Everything of the folder but the weights."""
    out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(out / "tokenizer.json"))
    _write(out / "tokenizer_config.json", tokenizer_config())
    _write(out / "config.json", config)
    _write(out / "generation_config.json", {
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "do_sample": False, "max_new_tokens": 48,
    })  # fmt: skip


def tokenizer_config() -> dict[str, object]:
    """What transformers reads beside `tokenizer.json`: the control tokens and the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": END,
        "additional_special_tokens": [SYSTEM, USER, ASSISTANT],
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
        "chat_template": TEMPLATE,
    }


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")

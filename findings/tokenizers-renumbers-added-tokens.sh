#!/usr/bin/env bash
# tokenizers 0.23.3: an added token of tokenizer.json does not keep the id that the file gives it.
#
# The library numbers added tokens by itself, from the size of the vocabulary on. A file that leaves a gap, as those of
# models with a padded vocabulary do, loads without a warning, and the token encodes as another id than the file says:
# the model's row for it is never used, and another row is used in its place.
#
# Seen: "<|end|>" has id 5 in the file and loads as 3.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/env"
"$work/env/bin/pip" install --quiet --disable-pip-version-check tokenizers==0.23.3
"$work/env/bin/python" - <<'CODE'
import json

from tokenizers import Tokenizer

flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
file = {
    "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None,
    "post_processor": None, "decoder": None,
    "added_tokens": [{"id": 5, "content": "<|end|>", **flags}],
    "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "[UNK]": 2}, "unk_token": "[UNK]"},
}
loaded = Tokenizer.from_str(json.dumps(file))
print("the file says 5, the library says", loaded.token_to_id("<|end|>"))
assert loaded.token_to_id("<|end|>") == 3
CODE
echo "as described"

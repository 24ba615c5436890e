"""The text that `sinkserve eval ppl` reads: `python demo/training/transcript.py > demo/transcript.txt`.

One long dialogue as the chat template renders it, with names and words held out of training.
"""

from __future__ import annotations

import argparse
import random
import sys

from demo.dialogues import conversation
from demo.training.vocabulary import ASSISTANT, BEGIN, END, USER


def transcript(turns: int, seed: str = "0") -> str:
    """`turns` turns; every message ends a line only in the eyes of the model: there are no line breaks."""
    talk = conversation(random.Random(f"transcript {seed}"), reach=12, held_out=True)
    said = (next(talk) for _ in range(turns))
    return BEGIN + "".join(f"{USER}{turn.user}{END}{ASSISTANT}{turn.assistant}{END}" for turn in said)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=480)
    parser.add_argument("--seed", default="0", help="another one says other things")
    arguments = parser.parse_args()
    sys.stdout.write(transcript(arguments.turns, arguments.seed))

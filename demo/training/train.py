"""Trains the demo model and writes its Hugging Face folder.

    python demo/training/train.py --out demo/model --minutes 80

Interrupted training goes on where its last checkpoint in `--work` left off. `--fresh` starts anew.
"""

import argparse
import os
import random
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as fn

from demo.training.network import Network, Shape
from demo.training.optimizer import Muon
from demo.training.priming import prime
from demo.training.probe import probe, summary
from demo.training.samples import Encoder, sample, tensors
from demo.training.vocabulary import train_tokenizer, write_folder

SINK_PRESSURE = 0.3


@dataclass
class Progress:
    """How far training has come; time and tokens are those of all runs together."""

    step: int = 0
    seconds: float = 0.0
    tokens: int = 0


class Trainer:
    """The network, its two optimizers (Muon for matrices, AdamW for the rest) and the state to resume from."""

    def __init__(self, args: argparse.Namespace, encoder: Encoder) -> None:
        self.args, self.encoder, self.progress = args, encoder, Progress()
        torch.manual_seed(args.seed)
        self.network = Network(Shape())
        prime(self.network)
        self.run = torch.compile(self.network) if args.compile else self.network
        named = list(self.network.model.layers.named_parameters())
        matrices = [p for _, p in named if p.ndim == 2]
        others = [p for p in self.network.parameters() if all(p is not m for m in matrices)]
        self.muon = Muon(matrices, rate=0.02)
        self.adam = torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.01)

    @property
    def part(self) -> float:
        """The share of the allotted time that is spent."""
        allotted: float = self.args.minutes * 60
        return min(self.progress.seconds / allotted, 1.0)

    def rate(self) -> float:
        """The learning rate's factor: a short warm-up, flat, then a line down to almost zero."""
        return min((self.progress.step + 1) / 60, 1.0) * min(1.0, (1.0 - self.part) / 0.5 + 0.01)

    def drill(self) -> float:
        """The curriculum: the share of samples that only tell and ask, half at first, none in the second half."""
        return 0.5 * min(max((0.5 - self.part) / 0.3, 0.0), 1.0)

    def batch(self) -> tuple[Tensor, Tensor]:
        """The step's samples, a pure function of seed, step and curriculum."""
        rng = random.Random(f"{self.args.seed}/{self.progress.step}")
        return tensors([sample(self.encoder, rng, 257, self.drill()) for _ in range(self.args.batch)])

    def step(self) -> tuple[float, Tensor]:
        """One update; the weighted loss and every layer's attention to position 0."""
        started = time.perf_counter()
        ids, weights = self.batch()
        logits, sinks = self.run(ids[:, :-1])
        loss = weighted_loss(logits, ids[:, 1:], weights[:, 1:])
        pressure = SINK_PRESSURE if self.part >= self.args.sinks_from else 0.0
        (loss - pressure * sinks[1:].log().mean()).backward()
        self._update()
        self.progress.step += 1
        self.progress.tokens += ids.numel()
        self.progress.seconds += time.perf_counter() - started
        return loss.item(), sinks.detach()

    def _update(self) -> None:
        scale = self.rate()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.muon.step(scale)
        for group in self.adam.param_groups:
            group["lr"] = 4e-3 * scale
        self.adam.step()
        self.muon.zero_grad()
        self.adam.zero_grad()

    def save(self, path: Path) -> None:
        """The whole state, under a temporary name first."""
        state = {"network": self.network.state_dict(), "muon": self.muon.state, "adam": self.adam.state_dict(),
                 "progress": self.progress}  # fmt: skip
        torch.save(state, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Take up a saved state."""
        state = torch.load(path, weights_only=False)
        self.network.load_state_dict(state["network"])
        self.muon.state = state["muon"]
        self.adam.load_state_dict(state["adam"])
        self.progress = state["progress"]


def weighted_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Cross entropy with a weight for each token."""
    each = fn.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (each * weights.flatten()).sum() / weights.sum()


def write_weights(network: Network, out: Path) -> None:
    """The weights as safetensors; a reader never sees half a file."""
    state = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    new = out / "model.safetensors.new"
    save_file(state, new, metadata={"format": "pt"})
    new.chmod(0o644)
    new.replace(out / "model.safetensors")


def train(trainer: Trainer, work: Path, out: Path) -> None:
    """Until the time is spent; logs every 50 steps, saves every 250, tests every 500; writes the weights at the end."""
    while trainer.part < 1.0:
        loss, sinks = trainer.step()
        if trainer.progress.step % 50 == 0:
            log(trainer, loss, sinks)
        if trainer.progress.step % 250 == 0 or trainer.part == 1.0:
            trainer.save(work / "state.pt")
        if trainer.progress.step % 500 == 0:
            print("  " + summary(probe(trainer.network, trainer.encoder, 1, 32)), flush=True)
    write_weights(trainer.network, out)


def log(trainer: Trainer, loss: float, sinks: Tensor) -> None:
    """One line: where training is and what the sinks hold."""
    p = trainer.progress
    mass = " ".join(f"{x:.2f}" for x in sinks.tolist())
    print(f"step {p.step} min {p.seconds / 60:.1f} tok {p.tokens / 1e6:.2f}M loss {loss:.3f} "
          f"tok/s {p.tokens / p.seconds:.0f} drill {trainer.drill():.2f} sink {mass}", flush=True)  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    model = Path(__file__).resolve().parents[1] / "model"
    parser.add_argument("--out", type=Path, default=model, help="the folder to write")
    work = Path(tempfile.gettempdir()) / "demo_train"
    parser.add_argument("--work", type=Path, default=work, help="where checkpoints lie")
    parser.add_argument("--minutes", type=float, default=80.0, help="training time, all runs together")
    parser.add_argument("--batch", type=int, default=8, help="samples of 257 tokens a step")
    parser.add_argument(
        "--sinks-from", type=float, default=0.3, help="share of the time after which sinks are pressed for"
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true", help="forget an earlier checkpoint")
    parser.add_argument("--compile", action="store_true", help="torch.compile, a third faster; needs a C++ compiler")
    return parser.parse_args()


def main() -> None:
    """Tokenizer (kept if the folder has one), training, weights."""
    args = arguments()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    if not (args.out / "tokenizer.json").exists():
        write_folder(args.out, train_tokenizer(), Shape().config())
    tokenizer: Tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    trainer = Trainer(args, Encoder(tokenizer))
    if (args.work / "state.pt").exists() and not args.fresh:
        trainer.load(args.work / "state.pt")
    train(trainer, args.work, args.out)


if __name__ == "__main__":
    main()

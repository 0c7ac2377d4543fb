"""What a training step spends its time on: `python benchmarks/step_profile.py --data FILE`.

SASRec and RKSA with sampled cross-entropy over 128 negatives, drawn for every position or shared by
a batch. Each part is computed alone, forward and backward, on the inputs that it has in the step;
the rest is what remains of the whole: position-wise networks, normalisation, the embedding of the
inputs. Processor time on one thread, medians over the steps.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from rka_fast.commands import exit_status, machine
from rka_fast.data.batches import Batch
from rka_fast.models.losses import recommendation_loss
from rka_fast.training.assemble import Parts, assemble, load_data
from rka_fast.training.config import Config

PARTS = ("data", "attention", "loss", "kernel loss", "optimiser", "rest")
SHARING = {"none": "own negatives", "batch": "shared negatives"}


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Log, in any form that rka-fast train reads.
    data: str = "synthetic"
    # Steps to measure, behind two that warm up.
    steps: int = 20


def processor_time(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def leaf(x: Any) -> Any:
    """A tensor with values of its own graph; anything else, and tuples of tensors, likewise."""
    if isinstance(x, Tensor):
        return x.detach().requires_grad_(x.requires_grad)
    if isinstance(x, tuple):
        parts = map(leaf, x)
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


def attention_calls(model: nn.Module) -> list[tuple[nn.Module, tuple, dict]]:
    """Filled by the next step with every call of an attention and its inputs."""
    calls: list[tuple[nn.Module, tuple, dict]] = []
    for block in model.blocks:
        block.attention.register_forward_pre_hook(
            lambda module, args, named: calls.append((module, args, named)), with_kwargs=True
        )
    return calls


class Step:
    """The steps of one model and the parts of each, in seconds."""

    def __init__(self, parts: Parts, config: Config) -> None:
        self.split, self.model, self.batcher = parts
        self.config = config
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.calls = attention_calls(self.model)
        self.model.train()

    def measure(self, number: int) -> dict[str, float]:
        size = self.config.batch_size
        users = self.batcher.epoch_order(0)[number * size : (number + 1) * size]
        batch: list[Batch] = []
        data = processor_time(lambda: batch.append(self.batcher.training(users, number)))
        self.calls.clear()
        forward_backward = processor_time(lambda: self._forward_backward(batch[0]))
        calls = list(self.calls)
        optimiser = processor_time(self._update)
        found = {
            "data": data,
            "attention": self._attention(calls),
            "loss": self._loss(batch[0]),
            "kernel loss": self._kernel_loss(batch[0]),
            "optimiser": optimiser,
        }
        whole = data + forward_backward + optimiser
        return {**found, "rest": whole - sum(found.values()), "whole": whole}

    def _forward_backward(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.model.training_loss(batch, self.config.loss)["loss"].backward()

    def _update(self) -> None:
        self.optimizer.step()

    def _attention(self, calls: list[tuple[nn.Module, tuple, dict]]) -> float:
        taken = 0.0
        for module, args, named in calls:
            args = tuple(leaf(x) for x in args)
            named = {name: leaf(x) for name, x in named.items()}
            taken += processor_time(
                lambda m=module, a=args, n=named: m(*a, **n).sum().backward()
            )  # hooks add the call again to a list that is read no more
        return taken

    def _loss(self, batch: Batch) -> float:
        wanted = batch.targets > 0
        with torch.no_grad():
            states = self.model.encode(batch)[wanted]
        states.requires_grad_()
        negatives = batch.negatives[wanted] if batch.negatives.dim() == 3 else batch.negatives

        def compute() -> None:
            vectors = self.model.item_vectors()
            loss = recommendation_loss(
                self.config.loss, states, batch.targets[wanted], vectors, negatives,
                None, self.model.loss_options,
            )  # fmt: skip
            loss.backward()

        self.optimizer.zero_grad()
        return processor_time(compute)

    def _kernel_loss(self, batch: Batch) -> float:
        self.optimizer.zero_grad()

        def compute() -> None:
            for part in self.model.extra_losses(batch).values():
                part.backward()

        return processor_time(compute)


def profile(config: Config, parts: Parts, steps: int) -> dict[str, float]:
    """Medians of the parts and of the whole, in seconds."""
    step = Step(parts, config)
    found = [step.measure(number) for number in range(steps + 2)][2:]
    return {name: statistics.median(x[name] for x in found) for name in found[0]}


def table(found: dict[str, dict[str, float]]) -> list[str]:
    lines = [["", *PARTS, "ms a step"], ["---"] + ["--:"] * (len(PARTS) + 1)]
    for name, of in found.items():
        shares = [f"{of[part] / of['whole']:.0%}".removeprefix("0%") for part in PARTS]
        lines.append([name, *shares, f"{of['whole'] * 1e3:.0f}"])
    return ["| " + " | ".join(line) + " |" for line in lines]


def main(argv: Sequence[str] | None = None) -> int:
    flags = tyro.cli(Flags, args=argv, description=__doc__)

    def run() -> int:
        torch.set_num_threads(1)
        sequences, found = None, {}
        for model in ("sasrec", "rksa"):
            for sharing, words in SHARING.items():
                config = Config(
                    data=flags.data, model=model, loss="sampled_ce", shared_negatives=sharing
                )
                sequences = sequences or load_data(config)[0]
                torch.manual_seed(0)
                found[f"{model}, {words}"] = profile(
                    config, assemble(config, sequences), flags.steps
                )
        print(machine())
        print("\n".join(table(found)))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())

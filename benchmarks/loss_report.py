"""Time and peak memory of the losses over the size of the catalogue, beside their plain forms.

python benchmarks/loss_report.py [--report FILE]

Forward and backward, to the gradients of states and item vectors, on one thread. Times are of the
processor, so that others on the machine count little, and ratios are paired: every round computes
all forms once. What a form would hold is computed first, and one over --memory is not run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
import tyro
from peers import added_memory
from torch import Tensor

from rka_fast.commands import exit_status, machine
from rka_fast.models.losses import LossOptions, recommendation_loss

SEQUENCES, LENGTH, NEGATIVES, WIDTH = 128, 16, 128, 64
POSITIONS = SEQUENCES * LENGTH
ITEMS = (10**3, 10**4, 10**5, 10**6)


class Inputs(NamedTuple):
    """states (P, width) and vectors (items + 1, width) with gradients; targets (P,).

    negatives by who shares them: (P, k), (sequences, k) and (k,). rows (P,): of a position.
    """

    states: Tensor
    targets: Tensor
    vectors: Tensor
    negatives: dict[str, Tensor]
    rows: Tensor


def inputs(items: int, sequences: int = SEQUENCES, negatives: int = NEGATIVES) -> Inputs:
    rng = torch.Generator().manual_seed(0)
    positions = sequences * LENGTH

    def drawn(*shape: int) -> Tensor:
        return torch.randint(1, items + 1, shape, generator=rng)

    return Inputs(
        torch.randn(positions, WIDTH, generator=rng).requires_grad_(),
        drawn(positions),
        (0.02 * torch.randn(items + 1, WIDTH, generator=rng)).requires_grad_(),
        {
            "none": drawn(positions, negatives),
            "sequence": drawn(sequences, negatives),
            "batch": drawn(negatives),
        },
        torch.arange(sequences).repeat_interleave(LENGTH),
    )


def plain_cross_entropy(x: Inputs) -> Tensor:
    return F.cross_entropy(x.states @ x.vectors[1:].T, x.targets - 1)


def plain_sampled(loss: str, sharing: str) -> Callable[[Inputs], Tensor]:
    """With a vector looked up for every position and negative, whoever shares them."""

    def compute(x: Inputs) -> Tensor:
        negatives = x.negatives[sharing]
        if sharing == "sequence":
            negatives = negatives[x.rows]
        elif sharing == "batch":
            negatives = negatives.expand(len(x.targets), -1)
        positive = (x.vectors[x.targets] * x.states).sum(-1)
        others = (x.vectors[negatives] @ x.states[:, :, None])[..., 0]
        if sharing != "none":  # else they are drawn anew where one is the target
            others = others.masked_fill(negatives == x.targets[:, None], -torch.inf)
        if loss == "bce":
            return F.softplus(-positive).mean() + F.softplus(others).mean()
        if loss == "gbce":
            k, options = others.shape[1], LossOptions()
            beta = 1 - options.calibration * (1 - k / (len(x.vectors) - 2))
            positive = -beta * F.logsigmoid(positive)
            return (positive - F.logsigmoid(-others).sum(-1)).mean() / (k + 1)
        every = torch.cat((positive[:, None], others), 1)
        return F.cross_entropy(every, torch.zeros_like(x.targets))

    return compute


def ours(loss: str, sharing: str) -> Callable[[Inputs], Tensor]:
    def compute(x: Inputs) -> Tensor:
        negatives = None if loss == "ce" else x.negatives[sharing]
        rows = x.rows if sharing == "sequence" else None
        return recommendation_loss(loss, x.states, x.targets, x.vectors, negatives, rows)

    return compute


class Form(NamedTuple):
    loss: str
    sharing: str
    plain: bool

    @property
    def name(self) -> str:
        shared = {"none": "", "sequence": ", shared by a sequence", "batch": ", shared by a batch"}
        return f"{self.loss}{shared[self.sharing]}{', plain' if self.plain else ''}"

    @property
    def compute(self) -> Callable[[Inputs], Tensor]:
        if not self.plain:
            return ours(self.loss, self.sharing)
        return plain_cross_entropy if self.loss == "ce" else plain_sampled(self.loss, self.sharing)

    def least_bytes(self, items: int) -> int:
        """What the form holds at least: of plain cross-entropy products, logarithms, gradient."""
        table = 2 * 4 * items * WIDTH  # with its gradient
        return table + (3 * 4 * POSITIONS * items if self.loss == "ce" and self.plain else 0)

    def run(self, x: Inputs) -> None:
        torch.autograd.grad(self.compute(x), (x.states, x.vectors))


FORMS = [
    Form(loss, sharing, plain)
    for loss, shared in (
        ("ce", ("none",)), ("bce", ("none", "batch")), ("gbce", ("none", "batch")),
        ("sampled_ce", ("none", "sequence", "batch")),
    )
    for sharing in shared
    for plain in (True, False)
]  # fmt: skip


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Gigabytes that a form may hold.
    memory: float = 4.0
    # Rounds of all forms at every size; one from a second a form on.
    rounds: int = 3
    # Write the report to this file too.
    report: str | None = None


def seconds(form: Form, x: Inputs) -> float:
    begin = time.process_time()
    form.run(x)
    return time.process_time() - begin


class Cell(NamedTuple):
    """Median seconds, the median ratio to the plain form in the same round, and peak bytes."""

    seconds: float
    ratio: float | None
    peak: int


def measure(items: int, flags: Flags) -> dict[Form, Cell]:
    """Of the forms that fit."""
    x = inputs(items)
    fitting = [form for form in FORMS if form.least_bytes(items) <= flags.memory * 2**30]
    times: dict[Form, list[float]] = {form: [] for form in fitting}
    peaks = {
        form: added_memory(lambda form=form: times[form].append(seconds(form, x)))
        for form in fitting
    }
    for taken in times.values():  # a first call of libraries is no measurement
        if taken[0] < 1:
            taken.clear()
    for _ in range(flags.rounds):
        for form, taken in times.items():
            if not taken or taken[0] < 1:
                taken.append(seconds(form, x))

    def ratio(form: Form) -> float | None:
        plain = form._replace(plain=True)
        if form.plain or plain not in times:
            return None
        pairs = zip(times[form], times[plain], strict=False)
        return statistics.median(own / other for own, other in pairs)

    return {f: Cell(statistics.median(times[f]), ratio(f), peaks[f]) for f in fitting}


def table(found: dict[int, dict[Form, Cell]]) -> list[str]:
    head = ["", *(f"{items:,} items" for items in found)]
    lines = [head, ["---"] + ["--:"] * len(found)]
    for form in FORMS:
        lines.append([form.name, *(_cell(form, items, of) for items, of in found.items())])
    return ["| " + " | ".join(line) + " |" for line in lines]


def _cell(form: Form, items: int, found: dict[Form, Cell]) -> str:
    if form not in found:
        return f"does not fit: {form.least_bytes(items) / 1e9:.1f} GB"
    cell = found[form]
    ratio = "" if cell.ratio is None else f" ({cell.ratio:.2f})"
    return f"{cell.seconds * 1e3:,.0f} ms{ratio}, {cell.peak / 1e6:,.0f} MB"


def main(argv: Sequence[str] | None = None) -> int:
    flags = tyro.cli(Flags, args=argv, description=__doc__)

    def run() -> int:
        torch.set_num_threads(1)
        found: dict[int, dict[Form, Cell]] = {}
        for items in ITEMS:
            found[items] = measure(items, flags)
            print("\n".join(table({items: found[items]})), flush=True)
        text = "\n".join(
            [
                "# The losses over the size of the catalogue",
                "",
                f"{machine()}. {POSITIONS:,} positions in {SEQUENCES} sequences, width {WIDTH}, "
                f"{NEGATIVES} negatives, float32, forward and backward. Processor time, in "
                "brackets as a share of the plain form's in the same rounds; what a call adds to "
                "the memory at its peak. The gradient of the item table is in both. "
                "Command: `python benchmarks/loss_report.py --report FILE`.",
                "",
                *table(found),
            ]
        )
        if flags.report:
            Path(flags.report).write_text(text + "\n")
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())

"""Check a backend on this machine: random calls against the reference, draws against their law.

Every call is drawn from a seed of its own: `--seed S --cases 1` is call S again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from tqdm import tqdm

from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS, choose
from rka_fast.ops.triton import interpreted
from rka_fast.verification import fuzz, law
from rka_fast.verification.bounds import Comparison

LEAST_DRAWS = 100


class Failure(NamedTuple):
    """A result beyond its bound, and the call."""

    seed: int
    name: str
    comparison: Comparison
    text: str

    def __str__(self) -> str:
        return f"seed {self.seed}: {self.name} {self.comparison} ({self.text})"


class Worst(NamedTuple):
    """The result nearest to its bound, or furthest beyond it."""

    comparison: Comparison
    seed: int


def fuzzed(
    backend: str, seeds: Sequence[int], device: str = "cpu", progress: bool = False
) -> tuple[dict[str, Worst], list[Failure]]:
    """The worst of each result over the calls of these seeds, and all that break a bound."""
    worst: dict[str, Worst] = {}
    failures = []
    for seed in tqdm(seeds, disable=not progress, desc=backend, unit=" calls"):
        case, found = fuzz.check(seed, backend, device)
        for name, comparison in found.items():
            if name not in worst or comparison.ratio > worst[name].comparison.ratio:
                worst[name] = Worst(comparison, seed)
            if not comparison.ratio <= 1.0:
                failures.append(Failure(seed, name, comparison, case.text))
    return worst, failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 1 where something disagrees."""
    parser = argparse.ArgumentParser(prog="rka-fast verify", description=__doc__)
    parser.add_argument("--cases", type=int, default=500, help="random calls (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="of the first call (default 0)")
    parser.add_argument(
        "--backend", help=f"one of {', '.join(BACKENDS)} (default: what calls here would take)"
    )
    parser.add_argument(
        "--draws", type=int, default=400 if interpreted() else law.DRAWS, metavar="N",
        help="draws of each of two laws (default %(default)s; 0 leaves them out)",
    )  # fmt: skip
    flags = parser.parse_args(argv)
    for name, least in (("cases", 1), ("draws", 0), ("seed", 0)):
        if getattr(flags, name) < least:
            parser.error(f"--{name}: expected at least {least}, got {getattr(flags, name)}")
    if 0 < flags.draws < LEAST_DRAWS:
        parser.error(
            f"--draws: expected 0 or at least {LEAST_DRAWS}, of which a covariance can be taken, "
            f"got {flags.draws}"
        )
    if flags.seed + flags.cases > 2**63:
        parser.error(f"--seed: expected at most 2**63 - cases, got {flags.seed}")
    device = "cuda" if torch.cuda.is_available() and flags.backend != "cpp" else "cpu"
    x = torch.zeros(1, 1, 1, 1, device=device)
    try:
        backend = choose(flags.backend or "auto", Arguments(x, x, x))
    except ValueError as error:
        parser.error(str(error))
    started = time.perf_counter()
    seeds = range(flags.seed, flags.seed + flags.cases)
    worst, failures = fuzzed(backend, seeds, device, progress=sys.stderr.isatty())
    print(f"{flags.cases} random calls of {backend} on {device}, the worst of each result:")
    print(f"{'':<36}{'error/bound':>12}{'error':>10}{'bound':>10}{'size':>10}  seed")
    for name, (found, seed) in sorted(worst.items()):
        numbers = f"{found.error:>10.1e}{found.budget:>10.1e}{found.size:>10.1e}"
        print(f"{name:<36}{found.ratio:>12.2f}{numbers}  {seed}")
    for failure in failures:
        print(f"FAILED {failure}")
    broken = _laws(backend, device, flags.seed, flags.draws) if flags.draws else []
    for line in broken:
        print(f"FAILED {line}")
    seconds = time.perf_counter() - started
    bad = len({f.seed for f in failures})
    print(
        f"{flags.cases - bad} of {flags.cases} calls within their bounds, "
        f"{len(broken)} statistics beyond theirs, {seconds:.0f} s"
    )
    return 1 if failures or broken else 0


def _laws(backend: str, device: str, seed: int, draws: int) -> list[str]:
    print(f"{draws} draws of each of two laws against SciPy's skew-normal:")
    broken = []
    for law_seed in (seed, seed + 1):
        found = law.check(backend, law_seed, draws, device)
        text = ", ".join(f"{f.name} {f.value:.2g} (bound {f.bound:g})" for f in found)
        print(f"  law {law_seed}: {text}")
        broken += [
            f"law {law_seed}: {f.name} {f.value:.2g}, bound {f.bound:g}"
            for f in found
            if not f.kept
        ]
    return broken


if __name__ == "__main__":
    sys.exit(main())

"""What a call costs beside its arithmetic: microseconds at n 8 against nn.MultiheadAttention.

    python benchmarks/call_overhead.py

Processor time, into which other work on the machine does not count, and the least of some rounds,
in which the modules take turns.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from rka_fast import KernelizedAttention

BATCH, LENGTH, WIDTH, HEADS = 2, 8, 32, 2
ROUNDS, CALLS = 12, 50


def calls() -> dict[tuple[str, str], Callable[[], object]]:
    """What is timed, by module and pass."""
    x = torch.randn(BATCH, LENGTH, WIDTH, requires_grad=True)
    theirs = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    ours = KernelizedAttention(WIDTH, HEADS, batch_first=True)
    modules = {"nn.MultiheadAttention": lambda: theirs(x, x, x, need_weights=False)[0]}
    for mode in ("location", "mean", "sample"):
        modules[f"KernelizedAttention, {mode}"] = lambda mode=mode: ours(
            x, x, x, need_weights=False, mode=mode
        )[0]

    def without_gradient(call: Callable[[], torch.Tensor]) -> None:
        with torch.no_grad():
            call()

    result = {}
    for name, call in modules.items():
        result[name, "no_grad"] = lambda call=call: without_gradient(call)
        result[name, "forward"] = call
        result[name, "forward+backward"] = lambda call=call: call().sum().backward()
    return result


def least_microseconds(timed: dict) -> dict:
    """The least mean over CALLS calls of each, in ROUNDS rounds in which all take turns."""
    least = dict.fromkeys(timed, float("inf"))
    for _ in range(ROUNDS):
        for key, call in timed.items():
            call()
            start = time.process_time()
            for _ in range(CALLS):
                call()
            least[key] = min(least[key], (time.process_time() - start) / CALLS * 1e6)
    return least


def main() -> None:
    torch.set_num_threads(1)
    least = least_microseconds(calls())
    print(f"B {BATCH}, n {LENGTH}, d {WIDTH}, {HEADS} heads, one thread, torch {torch.__version__}")
    print("| module | pass | us | times MultiheadAttention |\n|---|---|--:|--:|")
    for (name, passes), value in least.items():
        ratio = value / least["nn.MultiheadAttention", passes]
        print(f"| {name} | {passes} | {value:.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()

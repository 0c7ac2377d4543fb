"""Small runs to serve."""

from pathlib import Path

from support.runs import train, write_log

import rka_fast


def small_run(model: str, folder: Path, seed: int = 0) -> rka_fast.Run:
    """A run of few epochs on a small log."""
    log = write_log(folder / f"log{seed}.txt")
    flags = () if model == "pop" else ("--epochs", "2")
    assert train(log, folder / f"run{seed}", "--model", model, "--seed", str(seed), *flags) == 0
    return rka_fast.Run.load(folder / f"run{seed}")

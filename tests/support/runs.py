"""A small interaction log and small runs on it, for the tests of training and recommending."""

import os
import subprocess
import sys

import numpy as np
from support.processes import INSTALLED

from rka_fast.train import main
from rka_fast.training.config import Config

SMALL = {"width": 8, "blocks": 1, "max_length": 8, "batch_size": 16, "device": "cpu"}
"""Settings of small runs."""


def small(model="rksa"):
    """Those that the model reads, as flags."""
    read = SMALL.keys() - Config.unread(model)
    return [
        word
        for name, value in SMALL.items()
        if name in read
        for word in ("--" + name.replace("_", "-"), str(value))
    ]


def write_log(path, users=60, items=130, seed=0):
    """`user item` lines: every user walks through the catalogue in short steps."""
    rng = np.random.default_rng(seed)
    with open(path, "w") as file:
        for item in rng.permutation(items):  # each item occurs, whatever the walks do
            file.write(f"u{item % users} i{item}\n")
        for user in range(users):
            item = rng.integers(items)
            for _ in range(rng.integers(4, 9)):
                item = (item + rng.integers(1, 4)) % items
                file.write(f"u{user} i{item}\n")
    return path


def train(log, out, *flags):
    """Exit status of a small training run in this process."""
    model = flags[flags.index("--model") + 1] if "--model" in flags else "rksa"
    return main(["--data", str(log), "--out", str(out), *small(model), *flags])


def command(module, *arguments, processes=1):
    """How subprocess starts a module of the tested package: in its own process, on one thread."""
    launcher = [sys.executable, "-m"]
    if processes > 1:
        launcher += [
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            "-m",
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    words = [*launcher, module, *map(str, arguments)]
    return {"args": words, "env": environment, "cwd": INSTALLED}


def run_command(module, *arguments, processes=1):
    """The completed process of `command`, with its output as text."""
    return subprocess.run(
        **command(module, *arguments, processes=processes),
        capture_output=True,
        text=True,
        timeout=300,
    )


def pairs(table):
    """(item, score) of a table of recommendations for one."""
    return list(zip(table["item"], table["score"], strict=True))

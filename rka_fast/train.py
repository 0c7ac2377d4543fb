"""Train a model on an interaction log: rka-fast train --data FILE --out DIR.

Without arguments it trains RKSA on the built-in synthetic data. Several processes:
torchrun --nproc-per-node N -m rka_fast.train ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rka_fast.commands import exit_status
from rka_fast.data.readers import Interactions
from rka_fast.data.sequences import Sequences
from rka_fast.files import check_writable, to_json
from rka_fast.training.assemble import load_data
from rka_fast.training.config import Config
from rka_fast.training.flags import parse
from rka_fast.training.report import result_table
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.trainer import Trainer


def train(
    config: Config, folder: RunFolder | None = None, interactions: Interactions | None = None
) -> dict[str, Any]:
    """Start the run of the config, or go on with the one in `folder`. Returns its result.

    interactions: the data, where it is not to be read from `config.data`.
    """
    main = int(os.environ.get("RANK", 0)) == 0  # of several processes this one writes
    if config.json and main:
        check_writable(config.json)
    if folder is None:
        folder = RunFolder(config.run_dir)
        if main:
            folder.refuse_existing()
    resuming = folder.begun
    if resuming:
        sequences, description = Sequences.load(folder.sequences), folder.read_json("data.json")
        lines = [f"data: {description['source']}, as stored in {folder.sequences}"]
    else:
        sequences, description, lines = load_data(config, interactions)
    if main:
        print("\n".join(lines), flush=True)
    trainer = Trainer(config, sequences, folder, description)
    if main:
        if resuming:
            folder.write_config(config)
        else:
            folder.begin(config, sequences, description)
    if resuming:
        trainer.resume()
    if main:
        state = "finished" if resuming and trainer.finished else f"at step {trainer.progress.step}"
        print(f"run folder: {folder.path} ({state})", flush=True)
    result = trainer.run()
    if main:
        print("\n" + result_table(result), flush=True)
        if config.json:
            Path(config.json).write_text(to_json(result), encoding="utf-8")
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 2 for a user's mistake, 130 if stopped."""

    def run() -> int:
        given = parse(sys.argv[1:] if argv is None else argv, "rka-fast train", __doc__)
        for note in given.notes:
            print(note, file=sys.stderr)
        train(given.config, given.folder)
        return 0

    try:
        return exit_status(run)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())

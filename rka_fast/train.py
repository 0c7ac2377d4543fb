"""Train a model on an interaction log: rka-fast train --data FILE --out DIR.

Without arguments it trains RKSA on the built-in synthetic data. Several processes:
torchrun --nproc-per-node N -m rka_fast.train ...
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import torch

from rka_fast.commands import exit_status
from rka_fast.data.readers import Interactions
from rka_fast.data.split import Split
from rka_fast.errors import printable
from rka_fast.files import check_writable, to_json, write_output
from rka_fast.training.assemble import load_data, prepared_counts, with_prepared
from rka_fast.training.closing import closing_lines
from rka_fast.training.config import Config
from rka_fast.training.flags import parse
from rka_fast.training.memory import check_fits
from rka_fast.training.optimiser import ROWS_ALONE
from rka_fast.training.report import result_table
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.sizing import with_loss_for
from rka_fast.training.streaming import (
    Streamed,
    catalogue_of,
    load_streamed,
    prepared_of,
    with_streaming,
)
from rka_fast.training.trainer import Trainer
from rka_fast.training.update import Start


def train(
    config: Config,
    folder: RunFolder | None = None,
    interactions: Mapping[str, Interactions] | None = None,
    features: pl.DataFrame | None = None,
    chosen: bool = True,
) -> dict[str, Any]:
    """Start the run of the config, or go on with the one in `folder`. Returns its result.

    interactions: the logs that are not to be read from the files in the settings, by the name of
        the setting: data, valid, test.
    features: of the items, likewise.
    chosen: whether the loss is that of the config; else the number of items may choose another.
    """
    main = int(os.environ.get("RANK", 0)) == 0  # of several processes this one writes
    if config.json and main:
        check_writable(config.json)
    with contextlib.ExitStack() as held:  # the folder, by the process that writes
        new = folder is None
        if folder is None:
            folder = RunFolder(config.run_dir)
            if main:
                folder.refuse_existing()
        elif main:
            held.enter_context(folder.held())
        resuming = not new and folder.begun
        start = counts = None
        if resuming:
            counts = folder.read_counts(config)
            description = folder.read_description()
            source, prepared = (
                printable(description["source"]),
                prepared_of(description, folder.path),
            )
            sequences = folder.read_sequences() if prepared is None else catalogue_of(prepared)
            stored = f", as stored in {folder.sequences}" if prepared is None else ", streamed"
            lines = [f"data: {source}{stored}"]
        else:
            if config.from_run is not None:
                start = Start.of(config)
            if "data" not in (interactions or {}):
                config = with_prepared(config)  # whoever goes on from the run has to know them
            config, prepared = with_streaming(config, interactions)
            if prepared is None:
                sequences, description, lines = load_data(config, interactions, features)
            else:
                sequences, description, lines = load_streamed(config, prepared)
            if not chosen:
                config, more = with_loss_for(config, sequences.num_items)
                lines += more
            if start is not None:
                counts = start.counts_on(sequences, config)
        if main:
            print("\n".join(lines), flush=True)
        lines = check_fits(config, sequences, prepared)
        if config.sparse_adam:
            lines.append(ROWS_ALONE)
        if main and lines:
            print("\n".join(lines), flush=True)
        known = counts
        if known is None and prepared is None and not resuming:
            known = prepared_counts(config)
        trainer = Trainer(config, sequences, folder, description, counts=known, prepared=prepared)
        if isinstance(trainer.parts, Streamed):
            description.update(trainer.parts.facts)
            if main:
                print("\n".join(trainer.parts.lines), flush=True)
        if start is not None and isinstance(trainer.split, Split):
            lines = start.carry_into(trainer.model, trainer.split)
            if main:
                print("\n".join(lines), flush=True)
        if main:
            if resuming:
                folder.adopt()
                folder.write_config(config)
            else:
                if new:
                    held.enter_context(folder.held())
                    folder.refuse_existing()  # another one may have come first
                if start is not None:
                    trainer.save_start()
                folder.begin(config, sequences, description, counts)
        if resuming:
            trainer.resume()
        if main:
            state = (
                "finished" if resuming and trainer.finished else f"at step {trainer.progress.step}"
            )
            print(f"run folder: {folder.path} ({state})", flush=True)
        result = trainer.run()
        if main:
            lines = closing_lines(config, folder, sequences, result, trainer.epoch)
            print("\n" + "\n".join([result_table(result), "", *lines]), flush=True)
            if config.json:
                write_output(config.json, to_json(result))
        return result


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, 2 for a user's mistake, 130 if stopped."""

    def run() -> int:
        given = parse(sys.argv[1:] if argv is None else argv, "rka-fast train", __doc__)
        for note in given.notes:
            print(note, file=sys.stderr)
        train(given.config, given.folder, chosen=given.chosen)
        return 0

    try:
        return exit_status(run)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())

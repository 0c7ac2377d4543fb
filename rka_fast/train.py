"""Train a model on an interaction log: python -m rka_fast.train --data FILE --out DIR.

Without arguments it trains RKSA on the built-in synthetic data. Several processes:
torchrun --nproc-per-node N -m rka_fast.train ...
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from rka_fast.data.sequences import Sequences
from rka_fast.errors import ConfigError, DataError, Interrupted, UserError
from rka_fast.training.config import Config
from rka_fast.training.loop import Trainer
from rka_fast.training.report import result_table
from rka_fast.training.run_folder import RunFolder, check_writable, to_json
from rka_fast.training.source import load_data


@dataclass(frozen=True)
class Arguments:
    """The command line: every setting, and where settings may come from."""

    settings: tyro.conf.OmitArgPrefixes[Config]
    # JSON file of settings (such as a run's config.json); flags override it.
    config: str | None = None
    # Run folder to go on with, exactly; a finished run is evaluated again.
    resume: str | None = None


def parse(argv: Sequence[str] | None = None) -> tuple[Config, RunFolder | None]:
    """The settings, and the run folder to resume if any. Raises ConfigError and FolderError."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config")
    first.add_argument("--resume")
    first.add_argument("--model")
    first.add_argument("--data")
    given, _ = first.parse_known_args(argv)
    if given.config and given.resume:
        raise ConfigError("--config and --resume exclude each other: a run has its own settings")
    folder = RunFolder.open(given.resume) if given.resume else None
    saved = folder.read_config() if folder else None
    # The other defaults follow from these two, so they are read before the rest.
    values = {"model": given.model, "data": given.data}
    values = {name: value for name, value in values.items() if value is not None}
    defaults = saved or (Config.read(given.config, **values) if given.config else Config(**values))
    config = tyro.cli(
        Arguments,
        args=argv,
        prog="python -m rka_fast.train",
        description=__doc__,
        default=Arguments(defaults, given.config, given.resume),
    ).settings
    if saved:
        config.check_resume(saved)
    return config, folder


def train(config: Config, folder: RunFolder | None = None) -> dict[str, Any]:
    """Start the run of the config, or go on with the one in `folder`. Returns its result."""
    main = int(os.environ.get("RANK", 0)) == 0  # of several processes this one writes
    if config.json and main:
        check_writable(config.json)
    resuming = folder is not None
    if resuming:
        sequences, data = Sequences.load(folder.sequences), folder.read_json("data.json")
        lines = [f"data: {data['source']}, as stored in {folder.sequences}"]
    else:
        folder = RunFolder(config.run_dir)
        if main:
            folder.refuse_existing()
        sequences, data, lines = load_data(config)
    if main:
        print("\n".join(lines), flush=True)
    trainer = Trainer(config, sequences, folder, data)
    if main:
        if not resuming:
            folder = RunFolder.create(config.run_dir)
            sequences.save(folder.sequences)
            folder.write_json("data.json", data)
        folder.write_json("config.json", {**config.to_json(), "out": str(folder.path)})
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
    try:
        train(*parse(argv))
        return 0
    except (UserError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Interrupted as stopped:
        print(f"\n{stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())

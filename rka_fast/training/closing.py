"""What a person is told when a run has ended: where to look, and what to do next."""

from __future__ import annotations

import shlex
from typing import Any

from rka_fast.data.sequences import Sequences
from rka_fast.training.config import Config
from rka_fast.training.run_folder import RunFolder


def closing_lines(
    config: Config, folder: RunFolder, sequences: Sequences, result: dict[str, Any], epochs: int
) -> list[str]:
    """The lines below the table of scores. epochs: those that were trained."""
    run, best, lines = shlex.quote(str(folder.path)), result["best_epoch"], []
    if best and best == epochs and "test" in result and config.patience is not None:
        more = f"rka-fast train --resume {run} --epochs {2 * epochs}"
        if "epochs" not in config.resumable:
            more = f"a new run with --epochs {2 * epochs}, by which the learning rate decays"
        lines.append(f"the best epoch was the last one: more may be better, {more}")
    if (folder.path / "curve.png").is_file():
        lines.append(f"learning curve: {folder.path / 'curve.png'}")
    # A terminal would obey what is not printable.
    user = shlex.quote(next(filter(str.isprintable, sequences.user_ids), "ID"))
    lines.append(f"page of the run: rka-fast report {run} --out report.html")
    lines.append(f"recommend: rka-fast recommend {run} --user {user}, or --all --out recs.csv")
    return lines

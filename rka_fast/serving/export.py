"""Write a run's model to a folder that answers without rka_fast.

rka-fast export RUN --out DIR                  (for ONNX Runtime, without PyTorch)
rka-fast export RUN --out DIR --format aoti    (for PyTorch: compiled for this processor)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro

from rka_fast import exporting
from rka_fast.commands import exit_status, parse
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.user_index import UserIndex
from rka_fast.errors import ConfigError, FolderError
from rka_fast.explaining.asking import mode_of
from rka_fast.files import to_json, write_atomically
from rka_fast.models import MODELS
from rka_fast.models.transformer import TransformerRecommender
from rka_fast.run import Run
from rka_fast.serving import readme
from rka_fast.serving.folder import FACTS, FORMAT, GRAPHS, ITEMS, VECTORS
from rka_fast.serving.graph import RankingGraph
from rka_fast.version import __version__

_INPUTS, _OUTPUTS = ("history", "hidden", "top"), ("scores", "items")


def export_run(run: Run, folder: str | os.PathLike, format: str = "onnx") -> Path:
    """Write the graph from histories to the best items, and what goes with it, to a new folder.

    model.onnx or model.pt2    history, hidden, top -> scores, items; see `RankingGraph`
    items.json                 the ids of items 1, 2, ...
    vectors.npy                output embedding, float32 (items, width), for similar items
    export.json                model, length, whether what was had is hidden, popularity
    README.md                  how to call it

    The graph scores as the run evaluates; where that draws, by the mean of the logits.

    Raises ConfigError where the model cannot be exported, FolderError for a folder that holds
    something, ImportError where ONNX's packages are missing.
    """
    folder = Path(folder)
    if format not in GRAPHS:
        raise ConfigError(f"format: expected {' or '.join(GRAPHS)}, got {format!r}")
    model, counts = _exportable(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FolderError(f"{folder} exists already and is not empty; choose another --out")
    graph = RankingGraph(model, counts).eval()
    length, last = model.positions.num_embeddings, run.sequences.num_items
    # Equal sizes would be taken for one and the same.
    people, width, *_ = (size for size in (3, 4, 5) if size != length)
    history = torch.arange(people * length).view(people, length) % last + 1
    hidden = torch.zeros(people, width, dtype=torch.int64)
    every = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}
    device = next(model.parameters()).device
    try:
        model.cpu()
        exporting.export(
            graph, folder / GRAPHS[format], (history, hidden, torch.tensor(2)),
            mode=mode_of(run) or "mean", dynamic_shapes=(every, every, None),
            names=(_INPUTS, _OUTPUTS),
        )  # fmt: skip
        vectors = model.item_vectors()[1:].detach().numpy()
    finally:
        model.to(device)
    np.save(folder / VECTORS, vectors)
    write_atomically(folder / ITEMS, json.dumps(run.sequences.item_ids, ensure_ascii=False))
    page = readme.text(run.config, format, length, run.sequences.item_ids)
    write_atomically(folder / "README.md", page)
    write_atomically(folder / FACTS, to_json(_facts(run, format, length)))
    return folder


def _facts(run: Run, format: str, length: int) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "graph": GRAPHS[format],
        "model": run.config.model,
        "length": length,
        "seen": run.config.seen,
        "popularity": run.batcher.split.train_counts()[1:].tolist(),
        "version": __version__,
    }


def _exportable(run: Run) -> tuple[TransformerRecommender, CoOccurrence | None]:
    """The run's model and counts. Raises ConfigError where a graph cannot hold them."""
    if not isinstance(run.model, TransformerRecommender):
        able = [name for name, model in MODELS.items() if model.has_attention]
        raise ConfigError(
            f"a run of {run.config.model} cannot be exported; expected one of {' or '.join(able)}"
        )
    if run.model.uses_times:
        raise ConfigError(
            "a run with time_bias cannot be exported: its scores depend on when they are asked "
            "for; train it without --time-bias, or serve the run itself"
        )
    counts = run.batcher.cooccurrence
    if isinstance(counts, UserIndex):
        raise ConfigError(
            "a run whose co-occurrence is an index of who has what cannot be exported: a graph "
            "would hold all pairs of items; serve the run itself, or train it with --counting "
            "pairs or a lower --max-counted"
        )
    return run.model, counts


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Run folder of rka-fast train.
    run: tyro.conf.Positional[str]
    # Folder to write, new or empty.
    out: str
    # onnx for ONNX Runtime; aoti for PyTorch, compiled for this machine's processor.
    format: Literal["onnx", "aoti"] = "onnx"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""

    def run() -> int:
        flags = parse(Flags, argv, "rka-fast export", __doc__, "did you mean --out {0}?")
        try:
            folder = export_run(Run.load(flags.run), flags.out, flags.format)
        except ImportError as error:  # of packages that ONNX needs; it names them
            raise ConfigError(str(error)) from None
        size = sum(path.stat().st_size for path in folder.iterdir()) / 2**20
        print(f"wrote {folder}, {size:.1f} MiB; {folder / 'README.md'} says how to call it")
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())

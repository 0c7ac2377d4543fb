"""What answers a server's questions: a run, or an export of one."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rka_fast.errors import ConfigError, DataError, FolderError, UserError
from rka_fast.serving.folder import FACTS, FORMAT, GRAPHS, ITEMS, VECTORS

Graph = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""From history, hidden and top to scores and items; see `RankingGraph`."""


class Asked(NamedTuple):
    """Who is recommended to, by item numbers from 1.

    history: int64, oldest first. hidden: int64, what is not to be recommended. user: number of a
    user of the run's data, or -1. times: of the history, seconds since 1970, where they are read.
    """

    history: np.ndarray
    hidden: np.ndarray
    top: int
    user: int = -1
    times: np.ndarray | None = None


class Listed(NamedTuple):
    """Item numbers and their scores, the best first, and what they are by."""

    items: np.ndarray
    scores: np.ndarray
    by: str


class Engine(ABC):
    """Answers batches of questions in one thread.

    model: its name. ids: of items 1, 2, ... numbers: of items by id. hides_seen: whether what was
    had is not to be recommended, unless a question says otherwise. reads_times: whether questions
    need the times of the history. notes: what a person should know. popularity: (items,), events in
    training.
    """

    reads_times = False

    def __init__(
        self, model: str, ids: list[str], hides_seen: bool, popularity: np.ndarray
    ) -> None:
        self.model, self.ids, self.hides_seen = model, ids, hides_seen
        self.numbers = {name: number for number, name in enumerate(ids, start=1)}
        self.notes: list[str] = []
        self._popularity = popularity.astype(np.float32)
        self._popular = np.argsort(-popularity, kind="stable") + 1

    @abstractmethod
    def user(self, name: str) -> tuple[int, np.ndarray, np.ndarray | None]:
        """Number, history and times of a user of the data. Raises DataError."""

    def rank(self, asked: Sequence[Asked]) -> list[Listed]:
        """The best items for each; the most popular ones where a history is empty."""
        warm = [of for of in asked if len(of.history)]
        found = iter(self._rank(warm) if warm else ())
        return [next(found) if len(of.history) else self._most_popular(of) for of in asked]

    def similar(self, item: int, top: int) -> Listed:
        """Items by the cosine of their vectors with this one's. Raises DataError."""
        cosine = self._unit @ self._unit[item - 1]
        cosine[item - 1] = -np.inf
        top = min(top, len(self.ids) - 1)
        best = np.argpartition(-cosine, top - 1)[:top] if top else np.zeros(0, np.int64)
        best = best[np.argsort(-cosine[best], kind="stable")]
        return Listed(best + 1, cosine[best], "cosine")

    @cached_property
    def _unit(self) -> np.ndarray:
        """Item vectors of length 1."""
        vectors = self._vectors()
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    @abstractmethod
    def _vectors(self) -> np.ndarray:
        """Those of items 1, 2, ..., (items, width). Raises DataError where there are none."""

    def _most_popular(self, asked: Asked) -> Listed:
        """What many have had."""
        likely = self._popular[: asked.top + len(asked.hidden)]
        best = likely[~np.isin(likely, asked.hidden)][: asked.top]
        return Listed(best, self._popularity[best - 1], "popularity")

    @abstractmethod
    def _rank(self, asked: Sequence[Asked]) -> list[Listed]:
        """The best items for each; no history is empty."""


class ExportEngine(Engine):
    """An export, which needs neither torch nor the run where it is ONNX.

    Raises FolderError where it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
            ids = json.loads((folder / ITEMS).read_text(encoding="utf-8"))
            if facts["format"] != FORMAT:
                raise ValueError(f"its format is {facts['format']}, this version reads {FORMAT}")
            stored: Any = np.load(folder / VECTORS, mmap_mode="r")
            self.length = int(facts["length"])
            popularity = np.array(facts["popularity"])
            if not len(ids) == len(popularity) == len(stored):
                raise ValueError(f"{ITEMS}, {VECTORS} and {FACTS} have different numbers of items")
            super().__init__(facts["model"], ids, facts["seen"] == "hide", popularity)
            path = folder / facts["graph"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FolderError(f"{folder} is not a whole export: {error}; export again") from None
        self.stored: np.ndarray = stored
        try:
            self.graph = _onnx(path) if path.name == GRAPHS["onnx"] else _aoti(path)
        except UserError:
            raise
        except Exception as error:  # errors of ONNX Runtime have no base of their own
            raise FolderError(f"{path} cannot be read: {error}; export again") from None

    def _vectors(self) -> np.ndarray:
        return np.asarray(self.stored)

    def user(self, name: str) -> tuple[int, np.ndarray, np.ndarray | None]:
        raise DataError("an export knows no users; give the history")

    def _rank(self, asked: Sequence[Asked]) -> list[Listed]:
        rows = [of.history[-self.length :] for of in asked]
        history = np.zeros((len(rows), max(map(len, rows))), np.int64)
        hidden = np.zeros((len(rows), max(1, *(len(of.hidden) for of in asked))), np.int64)
        for row, (had, of) in enumerate(zip(rows, asked, strict=True)):
            history[row, history.shape[1] - len(had) :] = had
            hidden[row, : len(of.hidden)] = of.hidden
        top = min(len(self.ids), max(of.top for of in asked))
        scores, items = self.graph(history, hidden, top)
        return [
            cut(x, i, of.top, self.model) for x, i, of in zip(scores, items, asked, strict=True)
        ]


def cut(scores: np.ndarray, items: np.ndarray, top: int, by: str) -> Listed:
    """The first `top` that may be shown."""
    shown = np.isfinite(scores[:top])
    return Listed(items[:top][shown], scores[:top][shown], by)


def _onnx(path: Path) -> Graph:
    try:
        import onnxruntime
    except ImportError:
        raise ConfigError("an ONNX export needs ONNX Runtime: pip install onnxruntime") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def graph(history: np.ndarray, hidden: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        inputs = {"history": history, "hidden": hidden, "top": np.array(top)}
        found: Any = session.run(None, inputs)
        return tuple(found)

    return graph


def _aoti(path: Path) -> Graph:
    import torch

    package = torch._inductor.aoti_load_package(str(path))

    def graph(history: np.ndarray, hidden: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        scores, items = package(
            torch.from_numpy(history), torch.from_numpy(hidden), torch.tensor(top)
        )
        return scores.numpy(), items.numpy()

    return graph


def load(path: str | os.PathLike, ann: bool = False) -> Engine:
    """The engine of a run folder or of an export; ann: by approximate search.

    Raises FolderError, CheckpointError, ConfigError or DataError where it cannot be used.
    """
    folder = Path(path)
    if (folder / FACTS).is_file():
        if ann:
            raise ConfigError(
                "ann goes with a run: an export scores every item in its graph; serve the run "
                "itself or leave ann out"
            )
        return ExportEngine(folder)
    from rka_fast.serving.of_run import RunEngine

    return RunEngine(folder, ann)

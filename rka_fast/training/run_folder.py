"""The folder of a run: its settings, data, log, checkpoints and results."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rka_fast.data.sequences import Sequences
from rka_fast.errors import FolderError
from rka_fast.files import to_json, write_atomically
from rka_fast.training.config import Config
from rka_fast.training.metrics import RANKINGS, Ranked


class RunFolder:
    """Paths and files of one run.

    config.json    the settings, with the number of their format
    data.json      what the data is: source, form, counts
    sequences/     the users' sequences and the id maps
    metrics.jsonl  one line per step ("loss") and per evaluation ("valid")
    best.safetensors, last.safetensors    checkpoints
    ranks.npz      written at the end: ranks of the test targets, int32 (targets,) by ranking
    lists.npz      what was shown for them: users (targets,), items (targets, 10), 0 = none
    curve.png, result.json
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.sequences = self.path / "sequences"
        self.log = self.path / "metrics.jsonl"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.curve = self.path / "curve.png"
        self.ranks = self.path / "ranks.npz"
        self.lists = self.path / "lists.npz"
        self.result = self.path / "result.json"

    @property
    def begun(self) -> bool:
        """Whether everything is there that a run starts from; data.json is written last."""
        return (self.path / "data.json").is_file()

    @property
    def has_config(self) -> bool:
        return (self.path / "config.json").is_file()

    def begin(self, config: Config, sequences: Sequences, description: dict[str, Any]) -> None:
        """Write what a run starts from, in a new folder or where a beginning was cut off.

        description: of the data, JSON-able. Raises FolderError as `create` does.
        """
        if not self.has_config:
            RunFolder.create(self.path)
        self.write_config(config)
        sequences.save(self.sequences)
        self.write_json("data.json", description)

    @classmethod
    def create(cls, path: str | os.PathLike) -> RunFolder:
        """A new, empty and writable run folder.

        Raises FolderError where it holds files already or cannot be written.
        """
        folder = cls(path)
        folder.refuse_existing()
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            probe = folder.path / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise FolderError(
                f"cannot write to run folder {path}: {error.strerror}; choose another --out"
            ) from None
        return folder

    def refuse_existing(self) -> None:
        """Raise FolderError if the folder holds something already."""
        if self.path.is_dir() and any(self.path.iterdir()):
            raise FolderError(
                f"run folder {self.path} exists already; continue it with "
                f"--resume {self.path} or choose another --out"
            )

    @classmethod
    def open(cls, path: str | os.PathLike) -> RunFolder:
        """An existing run folder. Raises FolderError where `path` is not one."""
        folder = cls(path)
        if not folder.has_config:
            raise FolderError(
                f"{path} is not a run folder: it has no config.json; "
                "give the --out of a training run"
            )
        return folder

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file of the folder, atomically."""
        write_atomically(self.path / name, to_json(value))

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the folder. Raises FolderError where that fails."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FolderError(f"cannot read {path}: {error}; the run folder is damaged") from None

    def write_ranked(self, ranked: Ranked, users: np.ndarray) -> None:
        """Write the ranks of the test targets, and the lists that `users` (targets,) were shown."""
        ranks = dict(zip(RANKINGS, ranked.ranks.numpy().astype(np.int32), strict=True))
        for path, arrays in (
            (self.ranks, ranks),
            (self.lists, {"users": users, "items": ranked.lists.numpy().astype(np.int32)}),
        ):
            file = io.BytesIO()
            np.savez_compressed(file, **arrays)
            write_atomically(path, file.getvalue())

    def read_ranks(self) -> dict[str, np.ndarray]:
        """Rank of every test target, int32 (targets,), by ranking.

        Raises FolderError where that fails.
        """
        try:
            with np.load(self.ranks, allow_pickle=False) as arrays:
                return {ranking: arrays[ranking] for ranking in RANKINGS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise FolderError(
                f"cannot read {self.ranks}: {error}; the run folder is damaged"
            ) from None

    def write_config(self, config: Config) -> None:
        """Write the settings of the run, with `out` where the folder is."""
        self.write_json("config.json", {**config.to_json(), "out": str(self.path)})

    def read_config(self) -> Config:
        """The settings of the run, with `out` where the folder is now."""
        values = self.read_json("config.json")
        if isinstance(values, dict) and "format" not in values:
            values = {"format": 1, **values}
        return Config.from_json({**values, "out": str(self.path)}, str(self.path / "config.json"))

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut off is left out."""
        lines = self.log.read_text(encoding="utf-8").splitlines(True) if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate_log(self, step: int) -> None:
        """Drop what was logged after `step`, the one that training goes on from."""
        lines = [line for line in self.read_log() if line["step"] <= step]
        write_atomically(self.log, "".join(json.dumps(line) + "\n" for line in lines))

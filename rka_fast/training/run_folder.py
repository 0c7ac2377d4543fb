"""The folder of a run: its settings, data, log, checkpoints and results."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from rka_fast.errors import FolderError
from rka_fast.training.checkpoint import write_atomically
from rka_fast.training.config import Config
from rka_fast.training.metrics import RANKINGS


class RunFolder:
    """Paths and files of one run.

    config.json    the settings
    data.json      what the data is: source, form, counts
    sequences/     the users' sequences and the id maps
    metrics.jsonl  one line per step ("loss") and per evaluation ("valid")
    best.safetensors, last.safetensors    checkpoints
    curve.png, ranks.npz, result.json     written at the end; ranks are the test targets'
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.sequences = self.path / "sequences"
        self.log = self.path / "metrics.jsonl"
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.curve = self.path / "curve.png"
        self.ranks = self.path / "ranks.npz"
        self.result = self.path / "result.json"

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
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
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder. Raises FolderError where `path` is not one."""
        folder = cls(path)
        if not (folder.path / "config.json").is_file():
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

    def write_ranks(self, ranks: np.ndarray) -> None:
        """Write the ranks of the test targets, int (2, users) in the order of RANKINGS."""
        file = io.BytesIO()
        np.savez_compressed(file, **dict(zip(RANKINGS, ranks.astype(np.int32), strict=True)))
        write_atomically(self.ranks, file.getvalue())

    def read_ranks(self) -> dict[str, np.ndarray]:
        """Rank of each evaluated user's test target, int32 (users,), by kind of ranking.

        Raises FolderError where that fails.
        """
        try:
            with np.load(self.ranks, allow_pickle=False) as arrays:
                return {kind: arrays[kind] for kind in RANKINGS}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise FolderError(
                f"cannot read {self.ranks}: {error}; the run folder is damaged"
            ) from None

    def read_config(self) -> Config:
        """The settings of the run, with `out` where the folder is now."""
        values = self.read_json("config.json")
        return Config.from_json({**values, "out": str(self.path)}, str(self.path / "config.json"))

    def read_log(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line that was cut off is left out."""
        lines = self.log.read_text(encoding="utf-8").splitlines(True) if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate_log(self, step: int) -> None:
        """Drop what was logged after `step`, the one that training goes on from."""
        lines = [line for line in self.read_log() if line["step"] <= step]
        write_atomically(self.log, "".join(json.dumps(line) + "\n" for line in lines))


def check_writable(path: str | Path) -> None:
    """Raise FolderError unless a file can be written at `path`; its folder is made."""
    path = Path(path)
    existed = os.path.lexists(path)  # a device such as /dev/stdout must survive the check
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror}; give another file") from None


def to_json(value: Any) -> str:
    """Indented JSON with a newline at the end."""
    return json.dumps(value, indent=2) + "\n"

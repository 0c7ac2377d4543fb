"""The folder of a run: its settings, data, log, checkpoints and results.

A run that dies anywhere can go on: files are replaced whole, data.json ends the beginning and
result.json the run, and manifest.json has the checksums of both the old and the new content while
a file is being replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.sequences import ARRAYS, IDS, Sequences
from rka_fast.data.shards import Prepared
from rka_fast.errors import FolderError, printable
from rka_fast.files import LOCK, locked, remove_leftovers, to_json, write_atomically
from rka_fast.training.config import Config
from rka_fast.training.list_quality import QUALITIES
from rka_fast.training.metrics import METRICS, RANKINGS, Ranked

MANIFEST = "manifest.json"
START, COUNTS = "start.safetensors", "counts.npz"
BEGINNING = ("config.json", "sequences", MANIFEST, "data.json", START, COUNTS, LOCK)
"""What a folder holds before the first step; without data.json it was cut off."""
RESULTS = ("ranks.npz", "lists.npz", "curve.png", "result.json")


class RunFolder:
    """Paths and files of one run.

    config.json    the settings, with the number of their format
    data.json      what the data is: source, form, counts
    sequences/     the users' sequences and the id maps
    manifest.json  SHA-256 of the files beside the log and the checkpoints, which have their own
    start.safetensors, counts.npz    of a run that goes on from another: the weights that it starts
                   with, and its co-occurrence counts
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
        self.start = self.path / START
        self.best = self.path / "best.safetensors"
        self.last = self.path / "last.safetensors"
        self.result = self.path / "result.json"

    @property
    def begun(self) -> bool:
        """Whether everything is there that a run starts from; data.json is written last."""
        return (self.path / "data.json").is_file()

    @property
    def has_config(self) -> bool:
        return (self.path / "config.json").is_file()

    def refuse_existing(self) -> None:
        """Raise FolderError if the folder holds something already.

        The beginning of a run that computed nothing yet does not count: it is begun again.
        """
        if not self.path.is_dir():
            return
        names = {path.name for path in self.path.iterdir()}
        names = {name for name in names if not (name.startswith(".") and name.endswith(".tmp"))}
        if self.log.is_file() and not self.log.stat().st_size:
            names.discard(self.log.name)
        if names - set(BEGINNING) or (names and LOCK not in names):
            raise FolderError(
                f"run folder {self.path} exists already; continue it with "
                f"--resume {self.path} or choose another --out"
            )

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder where it is not there, and keeps other trainers out of it.

        Removes what a process that died left over. Raises FolderError where another process is
        training in it, where it cannot be written, and where a link leads out of it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FolderError(
                f"cannot write to run folder {self.path}: {error.strerror}; choose another --out"
            ) from None
        self._refuse_links()
        with locked(self.path):
            for folder in (self.path, self.sequences):
                remove_leftovers(folder)
            yield

    def begin(
        self,
        config: Config,
        sequences: Sequences,
        description: dict[str, Any],
        counts: CoOccurrence | None = None,
    ) -> None:
        """Write what a run starts from, in a folder that is `held`.

        description: of the data, JSON-able. counts: those that need not be counted again. Raises
        FolderError where the folder holds something else already, and where it cannot be written.
        """
        if not self.has_config:
            self.refuse_existing()
        self.sequences.mkdir(parents=True, exist_ok=True)
        (self.path / "data.json").unlink(missing_ok=True)
        files = {f"sequences/{name}": content for name, content in sequences.files().items()}
        if counts is not None:
            files[COUNTS] = counts.content()
        config_json = self._config_json(config)
        self.write(
            {"config.json": config_json, **files, "data.json": to_json(description).encode()}
        )

    def _refuse_links(self) -> None:
        """Raise FolderError for a link in the folder: what is written must stay in it."""
        names = (*BEGINNING, f"sequences/{ARRAYS}", f"sequences/{IDS}", *RESULTS)
        for path in (*(self.path / name for name in names), self.log, self.best, self.last):
            if path.is_symlink():
                raise FolderError(f"{path} is a link, which a run folder never has; delete it")

    @classmethod
    def open(cls, path: str | os.PathLike) -> RunFolder:
        """An existing run folder. Raises FolderError where `path` is not one."""
        if not isinstance(path, str | os.PathLike):
            raise FolderError(
                f"a run folder is given by its path, got {printable(repr(path))}; give the out of "
                "a training run"
            )
        folder = cls(path)
        if not folder.has_config:
            raise FolderError(
                f"{path} is not a run folder: it has no config.json; "
                "give the --out of a training run"
            )
        return folder

    def write(self, files: dict[str, bytes]) -> None:
        """Replace files of the folder, by name, in this order, with their checksums.

        Raises FolderError where that fails.
        """
        sums, new = self._checksums(), {name: [_sum(files[name])] for name in files}

        def is_there(name: str) -> bool:
            path = self.path / name
            return (
                sums.get(name) == new[name] and path.is_file() and path.read_bytes() == files[name]
            )

        if all(map(is_there, files)):
            return
        self._write_manifest({**sums, **{n: [*sums.get(n, []), *new[n]] for n in new}})
        for name, content in files.items():
            write_atomically(self.path / name, content)
        self._write_manifest({**sums, **new})

    def _write_manifest(self, sums: dict[str, list[str]]) -> None:
        text = to_json({"files": sums, "checksum": _sum(json.dumps(sums).encode())})
        write_atomically(self.path / MANIFEST, text)

    def _checksums(self) -> dict[str, list[str]]:
        """The checksums that each file may have; none of a run of an older version."""
        path = self.path / MANIFEST
        try:
            values = json.loads(path.read_bytes())
            if values["checksum"] != _sum(json.dumps(values["files"]).encode()):
                raise ValueError("its checksum does not match its content")
            return values["files"]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FolderError(
                f"{path} is damaged ({error}); restore it from a copy, or delete it: "
                "the files are then taken as they are"
            ) from None

    def read(self, name: str) -> bytes:
        """The content of a file of the folder, which `write` wrote.

        Raises FolderError where it is missing, or is not what was written.
        """
        path = self.path / name
        remedy = (
            "delete it and run the same command, or --resume, to have it made again"
            if name in RESULTS
            else "restore it from a copy or start the run again with another --out"
        )
        for _ in range(2):  # a second time, as it may just have been replaced
            try:
                content = path.read_bytes()
            except OSError as error:
                raise FolderError(f"cannot read {path}: {error.strerror}; {remedy}") from None
            sums = self._checksums()
            if name not in sums or _sum(content) in sums[name]:
                return content
        raise FolderError(f"{path} is damaged: it is not what the run wrote; {remedy}")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the folder. Raises FolderError where that fails."""
        try:
            value = json.loads(self.read(name))
            if not isinstance(value, dict):
                raise ValueError(f"expected an object, got {type(value).__name__}")
            return value
        except (ValueError, RecursionError) as error:
            if isinstance(error, FolderError):
                raise
            raise FolderError(
                f"{self.path / name} is damaged ({error}); restore it from a copy or start the "
                "run again with another --out"
            ) from None

    def read_description(self) -> dict[str, Any]:
        """What the data is. Raises FolderError where that fails."""
        description = self.read_json("data.json")
        if not all(isinstance(description.get(name), str) for name in ("source", "split")):
            raise FolderError(
                f"{self.path / 'data.json'} is damaged: it does not tell source and split; restore "
                "it from a copy or start the run again with another --out"
            )
        return description

    def read_sequences(self) -> Sequences:
        """The users' sequences, of a run that streams those of all shards.

        Raises FolderError or DataError where that fails.
        """
        if "streamed" in (description := self.read_description()):
            prepared = Prepared.of_run(description)
            whole = prepared.sequences()
            return dataclasses.replace(whole, source_sum=prepared.facts["content"])
        return Sequences.from_files(
            lambda name: self.read(f"sequences/{name}"), f"{self.sequences}"
        )

    def read_counts(self, config: Config) -> CoOccurrence | None:
        """The co-occurrence counts of a run that went on from another; None where it has none.

        Raises FolderError where they are damaged.
        """
        if config.from_run is None or not (self.path / COUNTS).exists():
            return None
        return CoOccurrence.from_content(self.read(COUNTS))

    def adopt(self) -> None:
        """Take up into the manifest what a run of an older version starts from."""
        sums, names = self._checksums(), ("data.json", f"sequences/{ARRAYS}", f"sequences/{IDS}")
        if missing := [name for name in names if name not in sums]:
            self._write_manifest({**sums, **{n: [_sum(self.read(n))] for n in missing}})

    def write_results(
        self,
        result: dict[str, Any],
        ranked: Ranked | None,
        users: np.ndarray,
        curve: bytes | None,
    ) -> None:
        """Write the results, result.json last.

        ranked: ranks of the test targets and the lists that `users` (targets,) were shown, where
        there are any. curve: a PNG file.
        """
        files: dict[str, bytes] = {}
        if ranked is not None:
            ranks = dict(zip(RANKINGS, ranked.ranks.numpy().astype(np.int32), strict=True))
            lists = {"users": users, "items": ranked.lists.numpy().astype(np.int32)}
            files |= {"ranks.npz": _npz(ranks), "lists.npz": _npz(lists)}
        if curve is not None:
            files["curve.png"] = curve
        self.write({**files, "result.json": to_json(result).encode()})

    def read_popularity(self) -> dict[str, Any] | None:
        """Scores of popularity that this run found before; None where they are not all there."""
        try:
            scores: Any = self.read_json("result.json")["popularity"]
            told = [scores["valid"], scores["test"], scores["intervals"]]
            whole = scores["lists"].keys() == QUALITIES.keys() and all(
                of[ranking].keys() == METRICS.keys() for of in told for ranking in RANKINGS
            )
        except (FolderError, KeyError, TypeError, AttributeError):
            return None
        return scores if whole else None

    def read_ranks(self) -> dict[str, np.ndarray]:
        """Rank of every test target, int32 (targets,), by ranking.

        Raises FolderError where that fails.
        """
        return self._read_arrays("ranks.npz", RANKINGS)

    def read_lists(self) -> tuple[np.ndarray, np.ndarray]:
        """Whose each test target is, (targets,), and what they were shown, int32 (targets, LISTED).

        Raises FolderError where that fails.
        """
        found = self._read_arrays("lists.npz", ("users", "items"))
        return found["users"], found["items"]

    def _read_arrays(self, name: str, keys: Iterable[str]) -> dict[str, np.ndarray]:
        try:
            with np.load(io.BytesIO(self.read(name)), allow_pickle=False) as arrays:
                return {key: arrays[key] for key in keys}
        except FolderError:
            raise
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise FolderError(
                f"cannot read {self.path / name}: {error}; delete it and result.json and "
                "run the same command to have both made again"
            ) from None

    def _config_json(self, config: Config) -> bytes:
        return to_json({**config.to_json(), "out": str(self.path)}).encode()

    def write_config(self, config: Config) -> None:
        """Write the settings of the run, with `out` where the folder is."""
        self.write({"config.json": self._config_json(config)})

    def read_config(self) -> Config:
        """The settings of the run, with `out` where the folder is now."""
        values = self.read_json("config.json")
        if "format" not in values:
            values = {"format": 1, **values}
        return Config.from_json({**values, "out": str(self.path)}, str(self.path / "config.json"))


def _npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

"""Going on from a run: its data and new events, its weights by id, its counts and settings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from rka_fast.data.cooccurrence import CoOccurrence, incidence
from rka_fast.data.counting import form
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import Split
from rka_fast.data.split_rules import SPLITS
from rka_fast.errors import CheckpointError, ConfigError
from rka_fast.models import MODELS, Recommender
from rka_fast.training.assemble import split_options
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.config import Config
from rka_fast.training.run_folder import RunFolder

FREE = ("dropout", "initial_scale", "leave_self_out", "train_mode", "backend")
"""Settings of the model that the weights of another run do not depend on."""

KEPT = (
    "max_length",
    *(
        field.name
        for field in dataclasses.fields(Config)
        if field.metadata["group"] == "model" and field.name not in FREE
    ),
)
"""Settings that must be those of the run whose weights are carried over."""


def updated(run: str | os.PathLike, settings: Mapping[str, Any]) -> Config:
    """The settings of a new run that goes on from `run`: its own, but for those given.

    Raises ConfigError, also where no data is given, and FolderError where there is no run.
    """
    old = RunFolder.open(run).read_config()
    if settings.get("data") is None:
        raise ConfigError(f"--from {run} needs --data, the log of the new events")
    if old.split == "files" and settings.get("split") is None and settings.get("valid") is None:
        raise ConfigError(
            f"--from {run}: it was split by files of its own; say how to split the joined data, "
            "with --split leave-one-out, time or none, or with --valid and --test"
        )
    if settings.get("model") not in (None, old.model):
        _refuse("model", settings["model"], old.model, run)
    own = {"from_run": str(run), "out": None, "json": None, "valid": None, "test": None}
    own["stream"] = Config.stream  # the new data need not be prepared
    config = dataclasses.replace(old, **{**own, **settings})
    _refuse_other(config, old)
    return config


def _refuse_other(config: Config, old: Config) -> None:
    """Raise ConfigError where the weights of a run with other settings would not fit."""
    for name in KEPT:
        new, had = getattr(config, name), getattr(old, name)
        if new != had:
            _refuse(name, new, had, config.from_run)


def _refuse(name: str, new: Any, had: Any, run: str | os.PathLike | None) -> NoReturn:
    raise ConfigError(
        f"{name} cannot change with --from: {run} has {had!r}, given {new!r}; "
        "leave it out, or train anew without --from"
    )


class Start(NamedTuple):
    """What a run takes over from the one that it goes on from.

    run: its folder. split: of the old data, with its sequences. weights: of the best epoch.
    counts: those that the folder holds, if any. Models that are fitted at once take over the data
    alone.
    """

    run: str
    split: Split
    weights: dict[str, Tensor]
    counts: CoOccurrence | None

    @classmethod
    def of(cls, config: Config) -> Start:
        """What config.from_run holds.

        Raises ConfigError for a run with other settings, and FolderError, CheckpointError or
        DataError where it is unfinished or damaged.
        """
        assert config.from_run is not None
        folder = RunFolder.open(config.from_run)
        old, sequences = folder.read_config(), folder.read_sequences()
        _refuse_other(config, old)
        if not folder.best.exists():
            raise CheckpointError(
                f"--from {config.from_run}: it has no {folder.best.name} yet; finish it with "
                f"--resume {config.from_run}"
            )
        checkpoint = Checkpoint.load(folder.best, sequences.fingerprint())
        checkpoint.check_run(old, sequences.digest())
        split = SPLITS[old.split](sequences, split_options(old))
        return cls(config.from_run, split, checkpoint.model, folder.read_counts(old))

    def counts_on(self, sequences: Sequences, config: Config) -> CoOccurrence | None:
        """The stored counts of the joined data; None where the model reads none or an index.

        The old run's have those of the new events added, where its folder has them: that of a run
        that itself went on from another.
        """
        if not MODELS[config.model].uses_cooccurrence:
            return None
        split = SPLITS[config.split](sequences, split_options(config))
        if form(split, config.counting) != "pairs":  # made anew, in the time that reading takes
            return None
        if self.counts is None:
            return CoOccurrence.from_split(split)
        return self.counts.updated(self.split, split)

    def carry_into(self, model: Recommender, split: Split) -> list[str]:
        """Give a new model on the joined data the old weights. Returns lines for a person.

        Rows of items and users are carried over by id. A new item starts as the mean of the old
        items that it shares training users with, weighed by how many; a new user likewise by shared
        items; one that shares nothing as the mean of all, plus the noise that it has. What features
        of items weigh is carried over by their names. Raises CheckpointError where the weights do
        not fit.
        """
        if not model.trains:
            return [f"{model.title} is fitted anew on the joined data"]
        tables, new = model.tables(), model.state_dict()
        maps = {name for name in new if name in ("items.map.weight", "output.map.weight")}
        fits = self.weights.keys() == new.keys() and all(
            self.weights[name].shape[name in tables :] == new[name].shape[name in tables :]
            for name in new.keys() - maps
        )
        if not fits:
            raise CheckpointError(
                f"--from {self.run}: its weights do not fit model {model.title} with these "
                "settings; train anew without --from"
            )
        affinities = {kind: _affinity(self.split, split, kind) for kind in set(tables.values())}
        for name, weight in new.items():
            old = self.weights[name]
            if name in tables:
                of = affinities[tables[name]]
                weight.copy_(of.carried(old.cpu().numpy(), weight.cpu().numpy()))
            elif name in maps:
                had = self.split.sequences.feature_names or []
                for place, feature in enumerate(split.sequences.feature_names or []):
                    if feature in had:
                        weight[:, place] = old[:, had.index(feature)]
            else:
                weight.copy_(old)
        lines = [f"weights of {self.run}; " + _told(affinities)]
        if seen := self._trained_less(split):
            lines.append(
                f"warning: {seen:,} users train on less than in {self.run}, whose weights have "
                "seen what is now asked for; the scores are too high"
            )
        return lines

    def _trained_less(self, split: Split) -> int:
        """How many users have fewer training events than in the old run."""
        old, new = self.split.sequences, split.sequences
        now = np.array([new.indices("user").get(name, -1) for name in old.user_ids], np.int64)
        trained = split.train_end - new.indptr[:-1]
        trained = np.where(now >= 0, trained[now], 0)
        return int((trained < self.split.train_end - old.indptr[:-1]).sum())


class Affinity(NamedTuple):
    """How the items, or the users, of joined data relate to the old ones, counted from 0.

    Old ones are those whose vectors are carried over.

    old: int64 (new count,), the old index of each, or -1. fresh: those without one. shares:
    (fresh, old count), how many users (or items) each has in common with each old one.
    """

    old: np.ndarray
    fresh: np.ndarray
    shares: scipy.sparse.csr_matrix

    @property
    def alone(self) -> np.ndarray:
        """Bool (fresh,): those that share nothing with an old one."""
        return np.asarray(self.shares.sum(1)).ravel() == 0

    def carried(self, old: np.ndarray, new: np.ndarray) -> Tensor:
        """The table (padding +) new count of weights, with its first rows as in the old one."""
        offset = len(new) - len(self.old)
        vectors, result = old[offset:].astype(np.float64), new.copy()
        result[:offset] = old[:offset]
        known = self.old >= 0
        result[offset:][known] = vectors[self.old[known]]
        shared = np.asarray(self.shares.sum(1)).reshape(-1, 1)
        noise = new[offset:][self.fresh]
        mean = self.shares @ vectors / np.maximum(shared, 1)
        result[offset:][self.fresh] = np.where(shared > 0, mean, vectors.mean(0) + noise)
        return torch.from_numpy(result)


def _affinity(before: Split, after: Split, kind: str) -> Affinity:
    had = incidence(after)[:, 1:].astype(np.float64)  # users, items
    if kind == "item":
        had = had.T
    names = after.sequences.item_ids if kind == "item" else after.sequences.user_ids
    first = 1 if kind == "item" else 0
    indices = before.sequences.indices(kind)
    old = np.array([indices.get(name, first - 1) - first for name in names], np.int64)
    if kind == "item" and before.sequences.features is not None:
        # Of an item that only its features described, the row of its id was never used.
        begins = (before.train_counts()[1:][old] == 0) & (after.train_counts()[1:] > 0)
        old = np.where(begins, -1, old)
    fresh, known = np.flatnonzero(old < 0), np.flatnonzero(old >= 0)
    had = had.tocsr()
    shares = (had[fresh] @ had[known].T).tocoo()
    shape = (len(fresh), len(indices))
    placed = scipy.sparse.csr_matrix((shares.data, (shares.row, old[known][shares.col])), shape)
    return Affinity(old, fresh, placed)


def _told(affinities: Mapping[str, Affinity]) -> str:
    told = []
    for kind, of in sorted(affinities.items()):
        alone = int(of.alone.sum())
        near = len(of.fresh) - alone
        told.append(f"new {kind}s: {near:,} from their neighbours, {alone:,} from the mean")
    return "; ".join(told)

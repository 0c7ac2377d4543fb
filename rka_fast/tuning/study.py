"""The trials of a study, each a run in a folder of its own, that survive a kill at any point.

What has been tried stands in an Optuna study in DIR/study.db. A trial's settings are a function of
the seed, its number and the trials before it; a trial that was cut off is taken up by its number
and its run folder, exactly, so that a study is the same however often it was stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from rka_fast.data.sequences import Sequences
from rka_fast.errors import ConfigError, DataError, FolderError, TrainingError
from rka_fast.files import LOCK, to_json, write_atomically
from rka_fast.reproduction.cells import INCIDENTAL, Cell, run_cell
from rka_fast.training.config import Config
from rka_fast.training.trainer import SELECTION
from rka_fast.tuning.space import Space, holds, points

NAME = "tune"
DONE = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class Tuning:
    """A study in a folder, which the caller has locked.

    base: the settings that all trials share. space: what is searched. pruner: "median",
    "hyperband" or "none". sequences, description: of `load_data`. Raises ConfigError where the
    folder holds another study, FolderError where it holds something else.
    """

    def __init__(
        self,
        out: Path,
        base: Config,
        space: Space,
        pruner: str,
        sequences: Sequences,
        description: dict[str, Any],
    ) -> None:
        self.out, self.base, self.space, self.pruner = out, base, space, pruner
        self.sequences, self.description = sequences, description
        self.popularity: dict[int, dict] = {}  # by seed, which all trials share
        self._claim()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            storage=f"sqlite:///{(out / 'study.db').resolve()}",
            pruner=_pruner(pruner, base),
            study_name=NAME,
            direction="maximize",
            load_if_exists=True,
        )

    def _claim(self) -> None:
        """Write what the study is, or compare it with what the folder has."""
        file = self.out / "study.json"
        shared = {k: v for k, v in self.base.to_json().items() if k not in INCIDENTAL}
        space = {n: optuna.distributions.distribution_to_json(d) for n, d in self.space.items()}
        facts = {**shared, "search": space, "pruner": self.pruner}
        facts["data"] = self.sequences.digest()
        if not file.exists():
            names = {path.name for path in self.out.iterdir()} - {LOCK}
            if names:
                raise FolderError(
                    f"{self.out} exists already and holds no study; choose another --out"
                )
            write_atomically(file, to_json(facts))
            return
        try:
            saved = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise FolderError(
                f"{file} is damaged ({error}); restore it from a copy or choose another --out"
            ) from None
        # What was not yet a setting when the study began had what is now the default.
        saved = {"max_counted": Config.max_counted, **saved}
        for name in {**saved, **facts}:
            if saved.get(name) != facts.get(name):
                what = "other data" if name == "data" else f"{name} {saved.get(name)!r}"
                raise ConfigError(
                    f"{self.out} holds a study with {what}"
                    + ("" if name == "data" else f", now it is {facts.get(name)!r}")
                    + "; give another --out"
                )

    @property
    def done(self) -> list[FrozenTrial]:
        """The trials that have ended, in order."""
        return self.study.get_trials(states=DONE)

    @property
    def best(self) -> FrozenTrial | None:
        """The best of those that were trained to their end."""
        ended = [t for t in self.done if t.state == TrialState.COMPLETE]
        return max(ended, key=lambda trial: (trial.value, -trial.number), default=None)

    def folder(self, number: int) -> Path:
        return self.out / "trials" / f"{number:04}"

    def config(self, trial: FrozenTrial) -> Config:
        """The settings of a trial. Raises ConfigError where they do not fit one another."""
        out = str(self.folder(trial.number))
        return dataclasses.replace(self.base, **trial.params, out=out, json=None)

    def next(self) -> FrozenTrial:
        """Run the trial that was cut off, or the next one, to its end, and return it.

        Raises Interrupted when stopped, and FolderError or CheckpointError where its folder cannot
        be used; it is then still open.
        """
        trial = self._open()
        try:
            value = self._run(trial)
        except optuna.TrialPruned:
            return self.study.tell(trial, state=TrialState.PRUNED)
        except (ConfigError, DataError, TrainingError) as error:
            trial.set_user_attr("error", str(error))
            return self.study.tell(trial, state=TrialState.FAIL)
        return self.study.tell(trial, value)

    def _open(self) -> Trial:
        """The trial that was cut off, or a new one. Its settings are stored before it begins."""
        if running := self.study.get_trials(states=(TrialState.RUNNING,)):
            trial = Trial(self.study, running[0]._trial_id)
        else:
            if not self.study.get_trials(states=(TrialState.WAITING,)):
                self.study.enqueue_trial(self._draw())
            trial = self.study.ask()
        for name, distribution in self.space.items():  # as enqueued
            _suggest(trial, name, distribution)
        return trial

    def _draw(self) -> dict[str, Any]:
        """The settings of the next trial; the first one has those given, where it may."""
        done = self.done
        given = {name: getattr(self.base, name) for name in self.space}
        if not done and holds(self.space, given):
            return given
        key = f"{self.base.seed} {len(done)}".encode()
        seed = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
        drawing = optuna.create_study(
            study_name=NAME,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=_pruner(self.pruner, self.base),
        )
        drawing.add_trials(done)
        drawn, tried = drawing.ask(self.space).params, [trial.params for trial in done]
        if drawn not in tried:
            return drawn
        left = [point for point in points(self.space) if point not in tried]
        return left[seed % len(left)] if left else drawn

    def _run(self, trial: Trial) -> float:
        """The best validation score. Raises TrialPruned where the pruner ends the trial."""
        frozen = self.study.get_trials()[trial.number]
        config, select = self.config(frozen), str(self.base.select or "sampled")

        def watch(epoch: int, metrics: dict[str, dict[str, float]]) -> None:
            if epoch not in frozen.intermediate_values:  # it is, after a kill
                trial.report(metrics[select][SELECTION], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        cell = Cell(f"trial {trial.number}", config)
        result = run_cell(cell, self.sequences, self.description, watch, self.popularity)
        return result["valid"][select][SELECTION]


def _suggest(trial: Trial, name: str, distribution: Any) -> None:
    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(name, distribution.choices)
        return
    kind = trial.suggest_int if isinstance(distribution, IntDistribution) else trial.suggest_float
    kind(name, distribution.low, distribution.high, step=distribution.step, log=distribution.log)


def _pruner(name: str, base: Config) -> optuna.pruners.BasePruner:
    if name == "median":  # not before it has seen something to compare with
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2)
    if name == "hyperband":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # experimental in some versions
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=base.epochs or 1)
    return optuna.pruners.NopPruner()

"""A trained model with its data, in Python: `run = Run.load("runs/mine")`."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import os
import time
import warnings
from pathlib import Path
from typing import Any

import polars as pl
import torch

from rka_fast.data.split import STAGES
from rka_fast.errors import ConfigError, DataError, hint
from rka_fast.explaining.asking import History
from rka_fast.explaining.explanation import DRAWS, Explanation, explain
from rka_fast.files import path_of
from rka_fast.models.transformer import TransformerRecommender
from rka_fast.pages.rendering import Page
from rka_fast.pages.report_page import report_page
from rka_fast.progress import progress as progress_bar
from rka_fast.recommending.asked import (
    columns_of,
    from_frame,
    histories_of,
    is_frame,
    is_id,
    listed,
)
from rka_fast.recommending.histories import Histories, item_indices, seconds
from rka_fast.recommending.later import later_batcher, later_split
from rka_fast.recommending.lists import Lister
from rka_fast.recommending.options import Options, Shown
from rka_fast.recommending.output import write_lists
from rka_fast.recommending.plan import Plan, notes_of, shown_to
from rka_fast.recommending.ranking import Ranker
from rka_fast.recommending.similar import similar_items, table_of
from rka_fast.recommending.tables import like, polars_frame
from rka_fast.recommending.titles import titles_of
from rka_fast.reporting.report import report
from rka_fast.reporting.runs import read_runs
from rka_fast.training.assemble import assemble
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.devices import check_device, make_accelerator
from rka_fast.training.evaluator import Evaluator
from rka_fast.training.metrics import both_metrics
from rka_fast.training.run_folder import RunFolder


class Run:
    """A trained model with the data it was trained on, as a run folder has them.

    folder: path of the folder. device: auto, cpu, cuda, cuda:N or mps. Raises FolderError,
    CheckpointError, ConfigError or DataError where the run or the device cannot be used.

    config: its settings. description: of the data. sequences: the data. model: with the weights of
    the best epoch, in evaluation, on `device`. batcher: makes its inputs.
    """

    def __init__(self, folder: str | os.PathLike, device: str = "cpu") -> None:
        opened = RunFolder.open(folder)
        # The run's settings on this device; the replacement checks the name.
        self.config = dataclasses.replace(opened.read_config(), device=device, backend=None)
        if check_device(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device, self.folder = device, opened.path
        self.description = opened.read_description()
        self.sequences = opened.read_sequences()
        checkpoint = Checkpoint.load(opened.best, self.sequences.fingerprint())
        checkpoint.check_run(self.config, self.sequences.digest())
        _, self.model, self.batcher = assemble(
            self.config, self.sequences, opened.read_counts(self.config)
        )
        checkpoint.load_into(self.model)
        if isinstance(self.model, TransformerRecommender):
            self.model.fold_features()
        self.model.to(device).eval()

    @classmethod
    def load(cls, folder: str | os.PathLike, device: str = "cpu") -> Run:
        """The run in a folder that `fit` or `rka-fast train` made; see `Run`."""
        return cls(folder, device)

    def recommend(
        self, of: Any = None, top: int = 10, *, progress: bool | None = None, **options: Any
    ) -> Any:
        """The best items for each of some people, as a table with a row a recommendation.

        of: the id of a user of the data, or a list of such ids; or anybody's histories, lists of
            item ids, oldest first, in a list (then they are called "0", "1", …) or by name in a
            dictionary; or a data frame with a column `user` of ids, or one with the columns `user`
            and `item` (and `timestamp`), an event a row; or None, which is everybody in the data.
        top: items for each at most.
        progress: whether to show a bar; by default where there are many.
        times: of the events of histories in a list or dictionary, in the same form, in seconds
            since 1970 or ISO dates; needed by models with time_bias.
        at: when they ask, likewise, by default now; read by models with time_bias.
        seen: "hide" what somebody has had or "keep" it; by default as the run has it.
        items: item ids, the only ones that may be shown.
        exclude: item ids that may not be shown. Both may be by name of those whom they hold for, in
            a dictionary or in a frame with the columns `user` and `item`; whoever has no `items`
            there is shown none.
        titles: of items by id, in a dictionary, a frame or a file: a column `title` more.
        draws: of the attention: columns `mean` and `std` of the score over them.
        order: "mean"; "thompson", by one draw; or "lower", by the mean less one std.
        seed: of the draws, by default the run's.
        ann: find items by approximate search (needs faiss), ordered by their exact scores, for
            large catalogues; a note says how much of the exact lists it finds.
        unknown: "skip" items of histories that are not in the catalogue, or "refuse" them; by
            default refuse in a single history, skip in several.

        Returns a polars frame, or a pandas frame if `of` is one: user, rank (from 1), item, score
        and, as they apply, title, mean, std and by ("popularity" where a history has no known item
        and the most popular items stand there). Raises DataError or ConfigError.
        """
        plan = self._told(of, top, options)
        quiet = len(plan) < MANY_LISTS if progress is None else not progress
        parts = []
        with progress_bar(len(plan), "user", quiet=quiet) as bar:
            for count, table in plan.tables():
                parts.append(table)
                bar.update(count)
        return like(pl.concat(parts), of)

    def recommend_to(
        self,
        out: str | os.PathLike,
        of: Any = None,
        top: int = 10,
        *,
        progress: bool = True,
        **options: Any,
    ) -> Path:
        """Write what `recommend` returns to a file, in bounded memory. Returns its path.

        out: its ending says the form: .parquet, .csv, .tsv, .jsonl, .md or .html. Stopped, the same
        call goes on where it was. In CSV and TSV text that a spreadsheet would compute, such as
        "=1+1" or "-5", gets a quote in front.
        """
        path_of(out, "out")
        plan = self._told(of, top, options)
        return self.write(plan, out, at_given=options.get("at") is not None, progress=progress)[0]

    def _told(self, of: Any, top: int, options: dict[str, Any]) -> Plan:
        """The plan of a call of this class, whose notes are warnings there."""
        known = list(inspect.signature(self.plan).parameters)
        if others := [name for name in options if name not in known]:
            raise ConfigError(f"unknown option {others[0]!r}; {hint(others[0], known)}")
        plan = self.plan(of, top, **options)
        for note in plan.notes:
            warnings.warn(note, stacklevel=3)
        return plan

    def write(
        self, plan: Plan, out: str | os.PathLike, *, at_given: bool = True, progress: bool = True
    ) -> tuple[Path, int]:
        """`recommend_to` of a plan. Returns the path, and how many of the lists have an item.

        at_given: whether the time of asking is not by default now.
        """
        weights = hashlib.sha256(RunFolder(self.folder).best.read_bytes()).hexdigest()
        return write_lists(plan, out, model=weights, at_given=at_given, quiet=not progress)

    def plan(
        self,
        of: Any = None,
        top: int = 10,
        *,
        times: Any = None,
        at: Any = None,
        seen: str | None = None,
        items: Any = None,
        exclude: Any = None,
        titles: Any = None,
        draws: int | None = None,
        order: str = "mean",
        seed: int | None = None,
        ann: bool = False,
        unknown: str | None = None,
    ) -> Plan:
        """What `recommend` computes from, with the same arguments, before anything is computed."""
        options = Options(top, self.config.seen if seen is None else seen, draws, order, seed, ann)
        histories = self.histories(of, times=times, at=at, unknown=unknown)
        shown, notes = shown_to(histories, self.sequences, options.seen, items, exclude)
        ranker = self.ranker(options, shown)
        if ann:
            if shown.allowed is not None:
                raise ConfigError("ann goes with items for everybody, not by user; leave it out")
            notes = [*notes, ranker.recall_note(histories)]
        cold = bool((histories.lengths == 0).any())
        lister = Lister(self.sequences, titles_of(titles), cold, self.config.model)
        return Plan(histories, ranker, lister, [*notes, *notes_of(histories)])

    def histories(
        self, of: Any = None, *, times: Any = None, at: Any = None, unknown: str | None = None
    ) -> Histories:
        """The histories of those that `recommend` would recommend to. Raises DataError."""
        reads = self.model.uses_times
        for name, given in (("times", times), ("at", at)):
            if given is not None and not reads:
                raise ConfigError(f"{name} has no meaning: this run was trained without time_bias")
        when = time.time() if at is None else seconds(at, "at")
        found = histories_of(
            of, self.sequences, times=times, at=when if reads else None, unknown=unknown
        )
        if reads and found.times is None:
            raise DataError(
                "this run reads times (time_bias): the histories need them too, by times=... or "
                "a column timestamp"
            )
        return found

    def ranker(self, options: Options | None = None, shown: Shown | None = None) -> Ranker:
        """What ranks the catalogue for batches of `histories`."""
        options = options or Options(seen=self.config.seen)
        if self.config.train_mode == "location" and (options.draws or options.order != "mean"):
            raise ConfigError(
                "draws cannot be had of this run: it was trained with train_mode 'location', which "
                "is plain attention; leave draws and order out"
            )
        return Ranker(
            self.model,
            self.batcher,
            self.device,
            options,
            shown or Shown.of(self.sequences, options.seen),
            self.batcher.split.train_counts(),
            self.config.seed if options.seed is None else options.seed,
        )

    def explain(
        self,
        of: Any,
        top: int = 10,
        *,
        times: Any = None,
        at: Any = None,
        titles: Any = None,
        draws: int = DRAWS,
    ) -> Explanation:
        """Why `recommend` recommends what it does to one person, as numbers.

        of, top, times, at, titles: as in `recommend`. draws: of the attention of RKSA, for how sure
        it is. `rka_fast.pages.explain_page` makes a page of it. Raises DataError or ConfigError.
        """
        history = History.of(self.histories(of, times=times, at=at))
        named = titles_of(titles)
        return explain(self, history, self.description, top=top, draws=draws, titles=named)

    def similar(
        self,
        items: Any,
        top: int = 10,
        *,
        by: str | None = None,
        titles: Any = None,
    ) -> Any:
        """The items most like each of some items, as a table with a row a pair.

        items: an item id, or several, or a frame with a column `item`. by: "item", RKSA's kernel of
        the item embeddings; "embedding", the cosine of the vectors that scores are made of;
        "cooccurrence", how many had both, as a cosine, from the training events. By default the
        first of these that the model has. titles: as in `recommend`.

        Returns a polars frame, or a pandas frame if `items` is one: item, rank (from 1), similar,
        score and, with titles, title. Raises DataError for unknown items, ConfigError for a
        similarity that the model has not.
        """
        if is_frame(items):
            ids = columns_of(items, "items")["item"]
        else:
            expected = "items: expected an item id or several"
            ids = [items] if is_id(items) else listed(items, expected)
        if not ids:
            raise DataError("items: expected at least one item id")
        indices = item_indices(self.sequences, ids)
        found, values = similar_items(self.model, self.batcher, indices, top, by)
        table = table_of(self.sequences.item_ids, indices, found, values, titles_of(titles))
        return like(table, items)

    def evaluate(self, on: Any = "test") -> dict[str, dict[str, float]]:
        """Metrics by ranking, "sampled" and "full", of the targets of a stage or of later events.

        on: "valid" or "test"; or a data frame of events that came after the run's data, with the
            columns user and item (and timestamp, where the data has times). Each is a target after
            everything that its user had before. Events with items that are not in the catalogue,
            and the first of a new user, cannot be asked for; a warning says how many.

        Raises DataError, or ConfigError for another stage.
        """
        split, batcher, stage = self.batcher.split, self.batcher, on
        if is_frame(on):
            events = from_frame(polars_frame(on), of_one=False)
            split, left_out = later_split(split, *events)
            batcher, stage = later_batcher(batcher, split), "test"
            if left_out:
                count = "1 event" if left_out == 1 else f"{left_out:,} events"
                warnings.warn(
                    f"left out {count} with unknown items or without a history", stacklevel=2
                )
        elif on not in STAGES:
            raise ConfigError(f"on must be a data frame, or one of {', '.join(STAGES)}; got {on!r}")
        elif not len(split.targets(on).at):
            raise ConfigError(
                f"this run held nothing out for {on!r}; give a data frame of later events"
            )
        config = dataclasses.replace(self.config, device=str(self.device))
        evaluator = Evaluator(config, split, batcher, make_accelerator(config))
        return both_metrics(evaluator.ranked(self.model, stage).ranks)

    def report(self, *others: Run | str | os.PathLike, titles: Any = None) -> Page:
        """The page of this run, or of it and others side by side: HTML, which a notebook shows.

        others: runs, or their folders. titles: as in `recommend`. Raises FolderError, DataError or
        ConfigError where a run cannot be read.
        """
        folders = [of.folder if isinstance(of, Run) else of for of in (self, *others)]
        return report_page(report(read_runs(folders), titles_of(titles)))

    def export(self, folder: str | os.PathLike, format: str = "onnx") -> Path:
        """The model in a new folder that answers without rka_fast; see `export_run`."""
        from rka_fast.serving.export import export_run

        return export_run(self, path_of(folder, "folder"), format)


MANY_LISTS = 2000
"""Histories from which on a bar is shown."""

"""The training loop: from a config and sequences to a finished run folder.

All randomness of a step is a function of (seed, step, process), so that a resumed run needs no
generator state and computes what the uninterrupted one would have, bit for bit.
"""

# Settings of the training are not None where a model trains.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import functools
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from rka_fast.data.batches import Batch, Batcher, sampled_candidates
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import STAGES
from rka_fast.errors import ConfigError, Interrupted, TrainingError
from rka_fast.models import MODELS, Recommender
from rka_fast.training.assemble import assemble
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.config import Config
from rka_fast.training.devices import make_accelerator, seed_torch, shard, stop_signals
from rka_fast.training.list_quality import intervals, list_qualities
from rka_fast.training.metrics import Evaluation, Ranked, both_metrics
from rka_fast.training.report import plot_curve
from rka_fast.training.run_folder import RunFolder

SELECTION = "ndcg@10"  # sampled, on validation: decides which epoch is the best


@dataclass
class Progress:
    """Where training stands: with the weights, all that a resumed run needs."""

    step: int = 0  # steps done
    best_epoch: int = 0
    best_score: float = -1.0
    stale: int = 0  # evaluations since the best one
    train_seconds: float = 0.0
    eval_seconds: float = 0.0


class StepLoss(nn.Module):
    """A model's training loss as a forward pass, for what wraps one (autocast, data parallel)."""

    def __init__(self, model: Recommender, loss: str) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.training_loss(batch, self.loss)


class Trainer:
    """Trains and evaluates one model in one run folder.

    config: the settings. sequences: the data. folder: where everything is written. description:
    of the data, JSON-able, copied to the result. quiet: no progress bar and no lines.
    """

    def __init__(
        self,
        config: Config,
        sequences: Sequences,
        folder: RunFolder,
        description: dict[str, Any],
        quiet: bool = False,
    ) -> None:
        self.config, self.folder, self.description = config, folder, description
        self.accelerator = make_accelerator(config)
        self.main = self.accelerator.is_main_process
        self.quiet = quiet or not self.main
        torch.manual_seed(config.seed)
        self.split, self.model, self.batcher = assemble(config, sequences)
        try:
            self.model.check_device(self.accelerator.device)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        self.catalogue = sequences.fingerprint()
        self.negatives = {
            stage: sampled_candidates(self.split, stage, seed=config.seed) for stage in STAGES
        }
        begin = time.perf_counter()
        self.model.fit(self.split)
        fit_seconds = time.perf_counter() - begin
        self.epoch_order = functools.lru_cache(1)(self.batcher.epoch_order)
        self.progress = Progress(train_seconds=fit_seconds)
        self.steps_per_epoch, self.optimizer = 0, None
        if self.model.trains:
            self.epoch_order(0)  # raises DataError where there is nobody to train on
            self.steps_per_epoch = self.batcher.steps_per_epoch(config.batch_size)
            optimizer = torch.optim.Adam(
                self.model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True
            )
            self.step_loss, self.optimizer = self.accelerator.prepare(
                StepLoss(self.model, config.loss), optimizer
            )
        self.model.to(self.accelerator.device)

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.progress.step // max(self.steps_per_epoch, 1)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done or patience has run out."""
        return self.optimizer is None or (
            self.progress.step >= self.config.epochs * self.steps_per_epoch
            or self.progress.stale >= self.config.patience
        )

    def resume(self) -> None:
        """Go on from the last checkpoint of the run folder."""
        if not self.folder.last.exists():
            return  # stopped before the first one: begin again
        checkpoint = Checkpoint.load(self.folder.last, self.catalogue)
        checkpoint.load_into(self.model)
        if checkpoint.optimizer is not None:
            self.optimizer.load_state_dict(checkpoint.optimizer)
        if self.accelerator.scaler is not None and checkpoint.meta["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(checkpoint.meta["scaler"])
        self.progress = Progress(**checkpoint.meta["progress"])

    def run(self) -> dict[str, Any]:
        """Train until finished, then evaluate the selected epoch. Returns the result as JSON.

        Raises TrainingError where the loss is not finite, and Interrupted after SIGINT or SIGTERM.
        """
        if self.main:
            self.folder.truncate_log(self.progress.step)
        if self.optimizer is None:
            self._save(self.folder.best)
        elif not self.finished:
            self._train()
        result = self._result()
        if self.main:
            self.folder.write_json("result.json", result)
            plot_curve(self.folder, synthetic=bool(self.description.get("synthetic")))
        self.accelerator.wait_for_everyone()
        return result

    def evaluate(self, stage: str) -> dict[str, dict[str, float]]:
        """Metrics of the model as it is now on "valid" or "test"."""
        return both_metrics(self.ranked(stage).ranks)

    def ranked(
        self, stage: str, model: Recommender | None = None, batcher: Batcher | None = None
    ) -> Ranked:
        """Ranks and lists of the model (default: the run's, as it is now) on a stage."""
        evaluation = Evaluation(self.split, batcher or self.batcher, stage, self.negatives[stage])
        with self.accelerator.autocast():
            return evaluation(
                model or self.model,
                self.accelerator.device,
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
                reduce=lambda ranks: self.accelerator.reduce(ranks, "sum"),
                seed=lambda chunk: seed_torch(self.config.seed, stage, chunk),
            )

    def _train(self) -> None:
        progress, total = self.progress, self.config.epochs * self.steps_per_epoch
        losses: list[float] = []
        bar = tqdm(
            total=total,
            initial=progress.step,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.5,
            disable=self.quiet,
        )
        with (
            bar,
            open(self.folder.log if self.main else os.devnull, "a", encoding="utf-8") as log,
            stop_signals() as stop,
        ):
            while not self.finished:
                begin = time.perf_counter()
                parts, stopped = self._step(stop)
                progress.step += 1
                progress.train_seconds += time.perf_counter() - begin
                losses.append(parts["loss"])
                write_line(log, {"step": progress.step, **parts})
                bar.update()
                bar.set_postfix(epoch=self.epoch, loss=f"{parts['loss']:.4f}", refresh=False)
                if progress.step % self.steps_per_epoch == 0 and (
                    self.epoch % self.config.eval_every == 0 or progress.step == total
                ):
                    self._validate(log, float(np.mean(losses)))
                    losses.clear()
                if (
                    stopped
                    or progress.step % self.steps_per_epoch == 0
                    or progress.step % (self.config.save_every or math.inf) == 0
                ):
                    self._save(self.folder.last, log)
                if stopped and not self.finished:
                    raise Interrupted(
                        f"stopped after step {progress.step} (epoch "
                        f"{progress.step / self.steps_per_epoch:.2f}), saved; go on "
                        f"with: python -m rka_fast.train --resume {self.folder.path}"
                    )

    def _step(self, stop: list[int]) -> tuple[dict[str, float], bool]:
        """One optimiser step. Returns the parts of the loss, and whether to stop after it.

        stop: not empty once this process has been asked to stop.
        """
        epoch, position = divmod(self.progress.step, self.steps_per_epoch)
        size = self.config.batch_size
        users = self.epoch_order(epoch)[position * size : (position + 1) * size]
        batch = self.batcher.training(users, self.progress.step)
        batch, weight = shard(batch, self.accelerator.process_index, self.accelerator.num_processes)
        seed_torch(self.config.seed, self.progress.step, self.accelerator.process_index)
        self.model.train()
        parts = self.step_loss(batch.to(self.accelerator.device))
        if weight != 1:  # further terms are of the whole batch in every process
            per_target = parts.get("recommendation", parts["loss"])
            parts = {**parts, "loss": parts["loss"] + (weight - 1) * per_target}
            if "recommendation" in parts:
                parts["recommendation"] = weight * per_target
        report = torch.stack([part.detach().float() for part in parts.values()])
        report = torch.cat([report, report.new_tensor([float(bool(stop))])])
        if self.accelerator.num_processes > 1:  # every process must stop at the same step
            report: Any = self.accelerator.reduce(report, "mean")
        *numbers, stopping = report.tolist()
        values = dict(zip(parts, numbers, strict=True))
        if not math.isfinite(values["loss"]):
            self._not_finite(f"the loss is {values['loss']} at step {self.progress.step + 1}")
        self.optimizer.zero_grad()
        self.accelerator.backward(parts["loss"])
        self.optimizer.step()
        return values, stopping > 0

    def _validate(self, log: IO[str], loss: float) -> None:
        progress, begin = self.progress, time.perf_counter()
        if not len(self.split.valid.users):
            return self._keep_last(log, loss)
        metrics = self.evaluate("valid")
        seconds = time.perf_counter() - begin
        progress.eval_seconds += seconds
        progress.stale += 1
        better = metrics["sampled"][SELECTION] > progress.best_score
        if better:
            progress.best_score = metrics["sampled"][SELECTION]
            progress.best_epoch, progress.stale = self.epoch, 0
            self._save(self.folder.best, log, with_optimizer=False)
        write_line(log, {"step": progress.step, "epoch": self.epoch, "valid": metrics})
        if not self.quiet:
            line = (
                f"epoch {self.epoch:>3}  loss {loss:.4f}  valid NDCG@10 "
                f"{metrics['sampled']['ndcg@10']:.4f} sampled {metrics['full']['ndcg@10']:.4f} full"
                f"  {progress.train_seconds / self.epoch:.1f} s/epoch + {seconds:.1f} s"
                + ("  best" if better else "")
            )
            with tqdm.external_write_mode():
                print(line, flush=True)

    def _keep_last(self, log: IO[str], loss: float) -> None:
        """Where nothing is held out the last epoch is the one to keep."""
        self.progress.best_epoch = self.epoch
        if self.finished:
            self._save(self.folder.best, log, with_optimizer=False)
        if not self.quiet:
            with tqdm.external_write_mode():
                print(f"epoch {self.epoch:>3}  loss {loss:.4f}", flush=True)

    def _save(self, path: Path, log: IO[str] | None = None, with_optimizer: bool = True) -> None:
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self._not_finite(f"the weights are not finite after step {self.progress.step}")
        if not self.main:
            return
        if log is not None:  # what is logged must never lag behind the checkpoint
            log.flush()
            os.fsync(log.fileno())
        with_optimizer = with_optimizer and self.optimizer is not None
        scaler = self.accelerator.scaler
        Checkpoint(
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict() if with_optimizer else None,
            meta={
                "progress": asdict(self.progress),
                "config": self.config.to_json(),
                "scaler": scaler.state_dict() if scaler else None,
            },
            catalogue=self.catalogue,
        ).save(path)

    def _not_finite(self, what: str) -> NoReturn:
        kept = next((path for path in (self.folder.last, self.folder.best) if path.exists()), None)
        where = (
            "no checkpoint had been written yet"
            if kept is None
            else f"the last good checkpoint is kept in {kept}"
        )
        raise TrainingError(
            f"{what} (epoch {self.epoch + 1}); {where}. Start again with another "
            "--out and a smaller learning_rate, or with precision fp32"
        )

    def _result(self) -> dict[str, Any]:
        """Metrics of the selected epoch and of popularity, in the form of result.json."""
        self.accelerator.wait_for_everyone()
        Checkpoint.load(self.folder.best, self.catalogue).load_into(self.model)
        if not len(self.split.test.users):
            return self._facts({})
        begin = time.perf_counter()
        found = {stage: self.ranked(stage) for stage in STAGES}
        seconds = time.perf_counter() - begin
        if self.main:
            self.folder.write_ranked(found["test"], self.split.targets("test").users)
        self.progress.eval_seconds += seconds
        scores = self._scores(found)
        of_popularity = scores if self.config.model == "pop" else self._popularity()
        return self._facts({**scores, "popularity": of_popularity})

    def _facts(self, scores: dict[str, Any]) -> dict[str, Any]:
        """The scores with what the run was, in the form of result.json."""
        train = self.progress.train_seconds
        return {
            "data": self.description,
            "model": self.config.model,
            "best_epoch": self.progress.best_epoch,
            **({"request_times": "of the targets"} if self.model.uses_times else {}),
            **scores,
            "seconds": {
                "train": train,
                "eval": self.progress.eval_seconds,
                "per_epoch": train / self.epoch if self.epoch else 0.0,
            },
            "config": self.config.to_json(),
        }

    def _scores(self, found: dict[str, Ranked]) -> dict[str, Any]:
        """Metrics of both stages; of the test, their intervals and what the lists are like."""
        test, users = found["test"], self.split.targets("test").users
        ranks, counts = test.ranks.numpy(), self.batcher.cooccurrence
        return {
            **{stage: both_metrics(ranked.ranks) for stage, ranked in found.items()},
            "intervals": intervals(ranks, users),
            "lists": list_qualities(test.lists.numpy(), ranks[1], self.split, counts),
        }

    def _popularity(self) -> dict[str, Any]:
        """Metrics of popularity, which every result is shown beside."""
        model = MODELS["pop"].from_config(self.config, self.split)
        model.fit(self.split)
        model.to(self.accelerator.device)
        batcher = Batcher(self.split, None, self.config.max_length, self.config.seed)
        return self._scores({stage: self.ranked(stage, model, batcher) for stage in STAGES})


def write_line(log: IO[str], values: dict[str, Any]) -> None:
    """One line of JSON, handed to the operating system at once."""
    log.write(json.dumps(values) + "\n")
    log.flush()

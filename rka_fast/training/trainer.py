"""The training loop: from a config and sequences to a finished run folder.

All randomness of a step is a function of (seed, step, process), so that a resumed run needs no
generator state and computes what the uninterrupted one would have, bit for bit.
"""

# Settings of the training are not None where a model trains.
# pyright: reportArgumentType=false, reportOperatorIssue=false

from __future__ import annotations

import functools
import math
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from rka_fast.data.counting import Counts
from rka_fast.data.sequences import Sequences
from rka_fast.data.shards import Prepared
from rka_fast.data.split import STAGES
from rka_fast.errors import ConfigError, FolderError, Interrupted, TrainingError, UserError
from rka_fast.models import Recommender
from rka_fast.progress import progress as progress_bar
from rka_fast.training.config import Config
from rka_fast.training.curves import curve_of
from rka_fast.training.devices import make_accelerator, seed_torch, stop_signals
from rka_fast.training.lines import Speed, epoch_line, tell
from rka_fast.training.metrics import Ranked, both_metrics
from rka_fast.training.metrics_log import read_lines, truncate, write_line
from rka_fast.training.optimiser import adam, averaged, learning_rate, to_clip
from rka_fast.training.progress import Checkpoints, Progress, State
from rka_fast.training.report import curve_png
from rka_fast.training.run_folder import RunFolder
from rka_fast.training.step_loss import StepLoss, weighted
from rka_fast.training.streaming import Streamed
from rka_fast.training.tracking import Tracking
from rka_fast.training.trial import optimizer_seconds, seconds_of
from rka_fast.training.whole import Whole

SELECTION = "ndcg@10"  # on validation, by the ranking `select`: decides which epoch is the best


Watch = Callable[[int, dict[str, dict[str, float]]], object]
"""Takes the epochs done and the metrics on validation by ranking."""


class Trainer:
    """Trains and evaluates one model in one run folder.

    config: the settings. sequences: the data. folder: where everything is written. description:
    of the data, JSON-able, copied to the result. quiet: no progress bar and no lines.
    watch: called after every evaluation on validation, before its epoch is kept as the last; what
    it raises ends the training. counts: of the training events, where they are known already.
    popularity: its scores, where a run on the same data, split and seed has found them.
    prepared: the data of which each process streams its shards; `sequences` is then the catalogue.
    """

    def __init__(
        self,
        config: Config,
        sequences: Sequences,
        folder: RunFolder,
        description: dict[str, Any],
        quiet: bool = False,
        watch: Watch | None = None,
        counts: Counts | None = None,
        popularity: dict[str, Any] | None = None,
        prepared: Prepared | None = None,
    ) -> None:
        self.config, self.folder, self.description = config, folder, description
        self.popularity = popularity
        self.accelerator = make_accelerator(config, track=not quiet)
        self.main = self.accelerator.is_main_process
        self.quiet, self.watch = quiet or not self.main, watch
        self.tried = not quiet  # in all processes alike
        torch.manual_seed(config.seed)
        try:
            self.parts = (
                Whole(config, sequences, counts, self.accelerator)
                if prepared is None
                else Streamed(config, prepared, sequences, self.accelerator)
            )
            self.split, self.model = self.parts.split, self.parts.model
            self.model.check_device(self.accelerator.device)
        except UserError:
            raise
        except ValueError as error:  # of a model's constructor, about its settings
            raise ConfigError(str(error)) from None
        self.tracking = Tracking(self.accelerator, config)
        self.checkpoints = Checkpoints(folder, config, sequences)
        self.log_state: dict[str, Any] | None = None
        self.evaluator = self.parts.evaluator
        begin = time.perf_counter()
        self.model.fit(self.split)  # pyright: ignore[reportArgumentType]
        fit_seconds = time.perf_counter() - begin
        self.progress = Progress(train_seconds=fit_seconds)
        self.steps_per_epoch, self.optimizer = 0, None
        if self.model.trains:
            self.steps_per_epoch = self.parts.steps_per_epoch
            self._adam = functools.partial(
                adam, rate=config.learning_rate, weight_decay=config.weight_decay,
                sparse=config.sparse_adam,
            )  # fmt: skip
            optimizer = self._adam(self.model)
            if config.sparse_adam and self.accelerator.num_processes == 1:  # DDP sums dense ones
                self.model.use_sparse_gradients()
            self.step_loss, self.optimizer = self.accelerator.prepare(
                StepLoss(self.model, config.loss), optimizer
            )
        self.model.to(self.accelerator.device)
        self.average = None
        if self.optimizer is not None and config.average_weights is not None:
            self.average = averaged(self.model, config.average_weights)

    @property
    def evaluated(self) -> Recommender:
        """The model that is evaluated and kept as the best: of averaged weights, if asked for."""
        average: Any = self.average
        return self.model if average is None else average.module

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
        """Go on from the last checkpoint of the run folder.

        Raises CheckpointError or FolderError where what it needs is lost, damaged or of another
        run, before anything is computed.
        """
        if self.popularity is None:
            self.popularity = self.folder.read_popularity()
        if self.optimizer is None:
            return
        last = self.checkpoints.last(self.model, self.steps_per_epoch)
        if last is None:
            if self.config.from_run is not None:
                self.checkpoints.load(self.folder.start).load_into(self.model)
            return
        checkpoint, progress = last
        checkpoint.load_into(self.model)
        checkpoint.load_optimizer(self.optimizer)
        if self.average is not None:
            checkpoint.load_average(self.average, progress.step)
        scaler = checkpoint.meta.get("scaler")
        if self.accelerator.scaler is not None and scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        self.progress, self.log_state = progress, checkpoint.meta.get("log")

    def save_start(self) -> None:
        """Keep the weights as they are now as those that the run starts with."""
        self._save(self.folder.start, with_optimizer=False)

    def run(self) -> dict[str, Any]:
        """Train until finished, then evaluate the selected epoch. Returns the result as JSON.

        Raises TrainingError where the loss is not finite, Interrupted after SIGINT or SIGTERM, and
        FolderError where something cannot be written.
        """
        try:
            return self._run()
        except BrokenPipeError:
            raise
        except OSError as error:
            where = error.filename or self.folder.path
            go_on = self.checkpoints.go_on()
            raise FolderError(f"{where}: {error.strerror}; {go_on}") from None
        finally:
            self.tracking.finish()

    def _run(self) -> dict[str, Any]:
        if self.main:
            truncate(self.folder.log, self.progress.step, self.log_state)
        if self.optimizer is None:
            self._save(self.folder.best)
        elif not self.finished:
            if self.main:  # it would be that of fewer epochs
                self.folder.result.unlink(missing_ok=True)
            self._train()
        result, tested = self._result()
        if "test" in result:
            self.tracking.log({"test": result["test"]}, self.progress.step)
        if self.main:
            synthetic = bool(self.description.get("synthetic"))
            curve = curve_png(curve_of(read_lines(self.folder.log), self.config, result), synthetic)
            users = self.split.targets("test").users
            self.folder.write_results(result, tested, users, curve)
        self.accelerator.wait_for_everyone()
        return result

    def evaluate(self, stage: str) -> dict[str, dict[str, float]]:
        """Metrics of the model as it is now on "valid" or "test"."""
        return both_metrics(self.evaluator.ranked(self.evaluated, stage).ranks)

    def _train(self) -> None:
        progress, total = self.progress, self.config.epochs * self.steps_per_epoch
        losses: list[float] = []
        bar = progress_bar(total, "step", initial=progress.step, quiet=self.quiet)
        with (
            bar,
            open(self.folder.log if self.main else os.devnull, "a", encoding="utf-8") as log,
            stop_signals() as stop,
        ):
            if self.tried:
                self._tell_speed()
            while not self.finished:
                begin = time.perf_counter()
                parts, stopped = self._step(stop)
                progress.step += 1
                progress.train_seconds += time.perf_counter() - begin
                losses.append(parts["loss"])
                write_line(log, {"step": progress.step, **parts})
                self.tracking.log({"train": parts}, progress.step)
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
                        f"with: rka-fast train --resume {shlex.quote(str(self.folder.path))}"
                    )

    def _tell_speed(self) -> None:
        """Tell what a step, an epoch and an evaluation will take, and leave no trace of trying.

        Every process takes part: a step waits for all of them.
        """
        device, first = self.accelerator.device, self.epoch * self.steps_per_epoch

        def gradient() -> None:
            self.optimizer.zero_grad()
            self.accelerator.backward(self._loss(first)["loss"])

        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            step = seconds_of(gradient, device)
            step += optimizer_seconds(self.model, self._adam, device)
            self.optimizer.zero_grad()
            evaluation = None
            if len(self.split.valid.users):
                evaluation = self.evaluator.seconds(self.evaluated, "valid")
        if not self.quiet:
            speed = Speed(step, self.steps_per_epoch, evaluation, self.parts.loading)
            tell("\n".join(speed.lines(self.config, self.config.epochs - self.epoch)))

    def _loss(self, step: int) -> dict[str, Tensor]:
        """The parts of the loss of a step, as this process adds them to the processes' mean."""
        batch, weight = self.parts.batch(step, self.steps_per_epoch)
        seed_torch(self.config.seed, step, self.accelerator.process_index)
        self.model.train()
        return weighted(self.step_loss(batch.to(self.accelerator.device)), weight)

    def _step(self, stop: list[int]) -> tuple[dict[str, float], bool]:
        """One optimiser step. Returns the parts of the loss, and whether to stop after it.

        stop: not empty once this process has been asked to stop.
        """
        parts = self._loss(self.progress.step)
        report = torch.stack([part.detach().float() for part in parts.values()])
        report = torch.cat([report, report.new_tensor([float(bool(stop))])])
        if self.accelerator.num_processes > 1:  # every process must stop at the same step
            report: Any = self.accelerator.reduce(report, "mean")
        *numbers, stopping = report.tolist()
        values = dict(zip(parts, numbers, strict=True))
        if not math.isfinite(values["loss"]):
            self._not_finite(f"the loss is {values['loss']} at step {self.progress.step + 1}")
        self._update(parts["loss"])
        return values, stopping > 0

    def _update(self, loss: Tensor) -> None:
        """Change the weights by the gradient of the loss."""
        config = self.config
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if config.gradient_clip is not None:
            self.accelerator.clip_grad_norm_(to_clip(self.model.parameters()), config.gradient_clip)
        total = config.epochs * self.steps_per_epoch
        rate = learning_rate(
            config.learning_rate, config.warm_up, config.decay, self.progress.step, total
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _validate(self, log: IO[str], loss: float) -> None:
        progress, begin = self.progress, time.perf_counter()
        if not len(self.split.valid.users):
            return self._keep_last(log, loss)
        metrics = self.evaluate("valid")
        seconds = time.perf_counter() - begin
        progress.eval_seconds += seconds
        progress.stale += 1
        score = metrics[self.config.select][SELECTION]
        better = score > progress.best_score
        if better:
            progress.best_score = score
            progress.best_epoch, progress.stale = self.epoch, 0
            self._save(self.folder.best, log, with_optimizer=False)
        write_line(log, {"step": progress.step, "epoch": self.epoch, "valid": metrics})
        self.tracking.log({"valid": metrics, "epoch": self.epoch}, progress.step)
        if not self.quiet:
            per_epoch = progress.train_seconds / self.epoch
            tell(epoch_line(self.epoch, loss, metrics, (per_epoch, seconds), better))
        if self.watch is not None:
            self.watch(self.epoch, metrics)

    def _keep_last(self, log: IO[str], loss: float) -> None:
        """Where nothing is held out the last epoch is the one to keep."""
        self.progress.best_epoch = self.epoch
        if self.finished:
            self._save(self.folder.best, log, with_optimizer=False)
        if not self.quiet:
            tell(epoch_line(self.epoch, loss))

    def _save(self, path: Path, log: IO[str] | None = None, with_optimizer: bool = True) -> None:
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            self._not_finite(f"the weights are not finite after step {self.progress.step}")
        if not self.main:
            return
        scaler = self.accelerator.scaler
        if with_optimizer:
            state = State(self.model, self.optimizer, self.average)
        else:
            state = State(self.model if path == self.folder.start else self.evaluated)
        self.checkpoints.save(path, self.progress, state, scaler, log)

    def _not_finite(self, what: str) -> NoReturn:
        raise TrainingError(
            f"{what} (epoch {self.epoch + 1}); {self.checkpoints.kept()}. Start again with another "
            "--out and a smaller learning_rate, or with precision fp32"
        )

    def _result(self) -> tuple[dict[str, Any], Ranked | None]:
        """Metrics of the selected epoch and of popularity, in the form of result.json.

        With the ranks of the test targets, where there are any.
        """
        self.accelerator.wait_for_everyone()
        self.checkpoints.load(self.folder.best).load_into(self.evaluated)
        if not len(self.split.test.users):
            return self._facts({}), None
        begin = time.perf_counter()
        found = {stage: self.evaluator.ranked(self.evaluated, stage) for stage in STAGES}
        seconds = time.perf_counter() - begin
        self.progress.eval_seconds += seconds
        scores = self.evaluator.scores(found)
        is_pop = self.config.model == "pop"
        of_popularity = scores if is_pop else self._popularity()
        return self._facts({**scores, "popularity": of_popularity}), found["test"]

    def _popularity(self) -> dict[str, Any]:
        """Its scores, evaluated where the process that writes does not know them."""
        known: Any = broadcast_object_list([self.popularity])[0]
        return known or self.evaluator.popularity()

    def _facts(self, scores: dict[str, Any]) -> dict[str, Any]:
        """The scores with what the run was, in the form of result.json."""
        return {
            "data": self.description,
            "model": self.config.model,
            "best_epoch": self.progress.best_epoch,
            **({"request_times": "of the targets"} if self.model.uses_times else {}),
            **scores,
            "seconds": self.progress.seconds(self.epoch),
            "config": self.config.to_json(),
        }

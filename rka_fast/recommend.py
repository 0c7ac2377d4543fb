"""Recommend items from a finished or interrupted run.

rka-fast recommend RUN --user ID --top 10
rka-fast recommend RUN --history ID,ID,...   (a person not seen in training)
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from rka_fast.commands import exit_status
from rka_fast.data.split_rules import iso_seconds
from rka_fast.errors import ConfigError, printable
from rka_fast.files import to_json
from rka_fast.training.assemble import assemble
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.devices import check_device, seed_torch
from rka_fast.training.run_folder import RunFolder


class Recommendations:
    """The best epoch of a run, ready to recommend.

    run: path of the run folder. device: auto, cpu, cuda, cuda:N or mps. Raises FolderError,
    CheckpointError, ConfigError or DataError where the run or the device cannot be used.
    """

    def __init__(self, run: str | os.PathLike, device: str = "cpu") -> None:
        folder = RunFolder.open(run)
        # The run's settings on this device; the replacement checks the name.
        self.config = dataclasses.replace(folder.read_config(), device=device, backend=None)
        if check_device(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device, self.folder = device, folder.path
        self.description = folder.read_description()
        self.sequences = folder.read_sequences()
        checkpoint = Checkpoint.load(folder.best, self.sequences.fingerprint())
        checkpoint.check_run(self.config, self.sequences.digest())
        _, self.model, self.batcher = assemble(self.config, self.sequences)
        checkpoint.load_into(self.model)
        self.model.to(device).eval()

    def for_user(
        self, user: str, top: int = 10, at: float | None = None
    ) -> list[tuple[str, float]]:
        """(item id, score), best first, for a user of the data, after all of their events.

        at: when they ask, in seconds since 1970, by default now; read by models with time_bias.
        Raises DataError for a user id that is not in the data.
        """
        index = self.sequences.user_index(user)
        times = self.sequences.timestamps
        if times is not None:
            times = times[self.sequences.indptr[index] : self.sequences.indptr[index + 1]].tolist()
        return self._top(self.sequences.sequence(index), index, top, times, at)

    def for_history(
        self,
        items: Sequence[str],
        top: int = 10,
        times: Sequence[float] | None = None,
        at: float | None = None,
    ) -> list[tuple[str, float]]:
        """(item id, score), best first, for anyone who had these items, oldest first.

        times: of the events, as `at` in `for_user`; needed by models with time_bias.
        Raises DataError that names every item id that is not in the catalogue.
        """
        return self._top(self.sequences.item_indices(items), -1, top, times, at)

    @torch.no_grad()
    def _top(
        self,
        history: np.ndarray,
        user: int,
        top: int,
        times: Sequence[float] | None,
        at: float | None,
    ) -> list[tuple[str, float]]:
        if top < 1:
            raise ConfigError(f"top must be at least 1, got {top}")
        batch = self.batcher.history(
            history.tolist(), user, times, time.time() if at is None else at
        ).to(self.device)
        seed_torch(self.config.seed, "recommend")
        scores = self.model.scores(batch)[0].float().cpu()
        scores[0] = -torch.inf
        if self.config.seen == "hide":
            scores[history] = -torch.inf
        best = scores.argsort(descending=True, stable=True)[:top].tolist()
        return [
            (self.sequences.item_id(index), scores[index].item())
            for index in best
            if scores[index] > -torch.inf
        ]


@dataclass(frozen=True)
class Flags:
    """The command line."""

    # Run folder of rka_fast.train.
    run: tyro.conf.Positional[str]
    # Id of a user of the data.
    user: str | None = None
    # Item ids, oldest first, separated by commas: the history of anyone.
    history: str | None = None
    # When the events of the history happened, separated by commas, where the model reads times:
    # ISO dates or seconds since 1970.
    times: str | None = None
    # When it is asked, where the model reads times: ISO date or seconds since 1970; default now.
    at: str | None = None
    # How many items to recommend.
    top: int = 10
    # Print JSON instead of a table.
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    # Device to compute on: auto, cpu, cuda, cuda:N or mps.
    device: str = "cpu"


def recommend(flags: Flags) -> str:
    """The text that the command prints."""
    if (flags.user is None) == (flags.history is None):
        raise ConfigError("give either --user ID, for someone in the data, or --history ID,ID,...")
    recommendations = Recommendations(flags.run, flags.device)
    reads_times = recommendations.model.uses_times
    for name in ("times", "at"):
        if getattr(flags, name) is not None and not reads_times:
            raise ConfigError(f"--{name} has no meaning: this run was trained without --time-bias")
    if flags.times is not None and flags.user is not None:
        raise ConfigError("--times goes with --history: a user of the data has times")
    at = None if flags.at is None else _seconds("--at", flags.at)
    if flags.user is not None:
        found = recommendations.for_user(flags.user, flags.top, at)
        of = {"user": flags.user}
    else:
        items = [item.strip() for item in flags.history.split(",") if item.strip()]
        times = None
        if flags.times is not None:
            times = [_seconds("--times", when) for when in flags.times.split(",")]
        elif reads_times:
            raise ConfigError("--history: this run reads times; give --times TIME,TIME,... too")
        found = recommendations.for_history(items, flags.top, times, at)
        of = {"history": items}
    if flags.json:
        return to_json(
            {
                **of,
                "model": recommendations.config.model,
                "synthetic": bool(recommendations.description.get("synthetic")),
                "recommendations": [
                    {"rank": rank, "item": item, "score": score}
                    for rank, (item, score) in enumerate(found, start=1)
                ],
            }
        ).rstrip()
    found = [(printable(item), score) for item, score in found]
    width = max([4, *(len(item) for item, _ in found)])
    note = " (synthetic data)" if recommendations.description.get("synthetic") else ""
    name = f"user {printable(flags.user)}" if flags.user is not None else "this history"
    lines = [
        f"{recommendations.config.model} recommends for {name}{note}:",
        f"{'rank':>4}  {'item':<{width}}  {'score':>9}",
    ]
    lines += [
        f"{rank:>4}  {item:<{width}}  {score:9.4f}"
        for rank, (item, score) in enumerate(found, start=1)
    ]
    return "\n".join(lines)


def _seconds(flag: str, text: str) -> float:
    """Seconds since 1970. Raises ConfigError."""
    try:
        found = float(text)
    except ValueError:
        found = iso_seconds(text.strip())
    if found is None or not math.isfinite(found):
        raise ConfigError(
            f"{flag} {text!r}: expected seconds since 1970 or an ISO date, as 2020-01-31T18:30"
        )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""

    def run() -> int:
        print(recommend(tyro.cli(Flags, args=argv, prog="rka-fast recommend", description=__doc__)))
        return 0

    return exit_status(run)


if __name__ == "__main__":
    sys.exit(main())

"""Recommend items from a finished or interrupted run.

python -m rka_fast.recommend RUN --user ID --top 10
python -m rka_fast.recommend RUN --history ID,ID,...   (a person not seen in training)
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from rka_fast.data.batches import Batcher
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import SPLITS
from rka_fast.errors import ConfigError, DataError, UserError
from rka_fast.models import MODELS
from rka_fast.training.checkpoint import Checkpoint
from rka_fast.training.metrics import to_device
from rka_fast.training.processes import check_device, seed_torch
from rka_fast.training.run_folder import RunFolder, to_json


class Recommendations:
    """The best epoch of a run, ready to recommend.

    run: path of the run folder. device: auto, cpu, cuda, cuda:N or mps. Raises FolderError,
    CheckpointError, ConfigError or DataError where the run or the device cannot be used.
    """

    def __init__(self, run: str, device: str = "cpu") -> None:
        folder = RunFolder.open(run)
        # The run's settings on this device; the replacement checks the name.
        self.config = dataclasses.replace(folder.read_config(), device=device, backend="auto")
        if check_device(device) == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = device
        self.data = folder.read_json("data.json")
        self.sequences = Sequences.load(folder.sequences)
        checkpoint = Checkpoint.load(folder.best, self.sequences.fingerprint())
        split = SPLITS[self.config.split](self.sequences)
        self.model = MODELS[self.config.model].from_config(self.config, split)
        counts = CoOccurrence.from_split(split) if self.model.uses_cooccurrence else None
        self.batcher = Batcher(
            split,
            counts,
            self.config.max_length,
            self.config.seed,
            leave_self_out=self.config.leave_self_out,
        )
        checkpoint.load_into(self.model)
        self.model.to(device).eval()

    def for_user(self, user: str, top: int = 10) -> list[tuple[str, float]]:
        """(item id, score), best first, for a user of the data, after all of their events.

        Raises DataError for a user id that is not in the data.
        """
        index = self.sequences.user_index(user)
        return self._top(self.sequences.sequence(index), index, top)

    def for_history(self, items: Sequence[str], top: int = 10) -> list[tuple[str, float]]:
        """(item id, score), best first, for anyone who had these items, oldest first.

        Raises DataError that names every item id that is not in the catalogue.
        """
        known = {name: index for index, name in enumerate(self.sequences.item_ids, start=1)}
        unknown = [item for item in items if item not in known]
        if unknown:
            raise DataError(
                f"unknown item ids: {', '.join(map(repr, unknown))}; ids look like "
                f"{', '.join(self.sequences.item_ids[:3])}"
            )
        return self._top(np.array([known[item] for item in items]), -1, top)

    @torch.no_grad()
    def _top(self, history: np.ndarray, user: int, top: int) -> list[tuple[str, float]]:
        if top < 1:
            raise ConfigError(f"top must be at least 1, got {top}")
        batch = to_device(self.batcher.history(history.tolist(), user), self.device)
        seed_torch(self.config.seed, "recommend")
        scores = self.model.scores(batch, None)[0].float().cpu()
        scores[0] = -torch.inf
        scores[history] = -torch.inf
        best = scores.argsort(descending=True, stable=True)[:top].tolist()
        return [
            (self.sequences.item_id(index), scores[index].item())
            for index in best
            if scores[index] > -torch.inf
        ]


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    # Run folder of rka_fast.train.
    run: tyro.conf.Positional[str]
    # Id of a user of the data.
    user: str | None = None
    # Item ids, oldest first, separated by commas: the history of anyone.
    history: str | None = None
    # How many items to recommend.
    top: int = 10
    # Print JSON instead of a table.
    json: tyro.conf.FlagCreatePairsOff[bool] = False
    # Device to compute on: auto, cpu, cuda, cuda:N or mps.
    device: str = "cpu"


def recommend(arguments: Arguments) -> str:
    """The text that the command prints."""
    if (arguments.user is None) == (arguments.history is None):
        raise ConfigError("give either --user ID, for someone in the data, or --history ID,ID,...")
    recommendations = Recommendations(arguments.run, arguments.device)
    if arguments.user is not None:
        found = recommendations.for_user(arguments.user, arguments.top)
        of = {"user": arguments.user}
    else:
        items = [item.strip() for item in arguments.history.split(",") if item.strip()]
        found = recommendations.for_history(items, arguments.top)
        of = {"history": items}
    if arguments.json:
        return to_json(
            {
                **of,
                "model": recommendations.config.model,
                "synthetic": bool(recommendations.data.get("synthetic")),
                "recommendations": [
                    {"rank": rank, "item": item, "score": score}
                    for rank, (item, score) in enumerate(found, start=1)
                ],
            }
        ).rstrip()
    width = max([4, *(len(item) for item, _ in found)])
    note = " (synthetic data)" if recommendations.data.get("synthetic") else ""
    name = f"user {arguments.user}" if arguments.user is not None else "this history"
    lines = [
        f"{recommendations.config.model} recommends for {name}{note}:",
        f"{'rank':>4}  {'item':<{width}}  {'score':>9}",
    ]
    lines += [
        f"{rank:>4}  {item:<{width}}  {score:9.4f}"
        for rank, (item, score) in enumerate(found, start=1)
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 2 for a user's mistake."""
    try:
        print(
            recommend(
                tyro.cli(
                    Arguments, args=argv, prog="python -m rka_fast.recommend", description=__doc__
                )
            )
        )
        return 0
    except (UserError, DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())

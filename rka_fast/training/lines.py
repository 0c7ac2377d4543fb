"""The lines that a training prints, above its progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from tqdm import tqdm

from rka_fast.training.config import Config

LONG = 24 * 3600.0
"""Seconds above which what all epochs may take is warned of."""


def tell(line: str) -> None:
    """Print a line above the bar."""
    with tqdm.external_write_mode():
        print(line, flush=True)


class Speed(NamedTuple):
    """Seconds of a step, an epoch of `steps` and an evaluation, which is None without one.

    loading: of an epoch, those that go into reading data.
    """

    step: float
    steps: int
    evaluation: float | None
    loading: float = 0.0

    @property
    def epoch(self) -> float:
        """Seconds of an epoch."""
        return self.step * self.steps + self.loading

    def lines(self, config: Config, epochs: int) -> Iterator[str]:
        """For a person, with a warning where the epochs that are left may take long."""
        step = f"{self.step:.2g}" if self.step < 10 else f"{self.step:,.0f}"
        line = f"speed: about {step} s a step, {self.epoch:,.1f} s an epoch of "
        line += f"{self.steps:,} steps"
        if self.evaluation is not None:
            line += f", {self.evaluation:,.1f} s an evaluation"
        yield line
        evaluations = (self.evaluation or 0.0) * epochs / (config.eval_every or 1)
        total = self.epoch * epochs + evaluations
        if total > LONG:
            remedies = "; ".join(self._remedies(config, evaluations / total))
            yield f"warning: {epochs:,} epochs may take {total / 3600:,.0f} hours; {remedies}"

    def _remedies(self, config: Config, share: float) -> Iterator[str]:
        """What makes a run shorter, of which a share of the time is for evaluations."""
        if share > 0.5:
            yield "a higher --eval-every or a lower --eval-users evaluates less"
        elif config.loss == "ce":
            yield "--loss sampled_ce --shared-negatives sequence compares with some items only"
        yield "a lower --epochs or --patience ends sooner"


def epoch_line(
    epoch: int,
    loss: float,
    metrics: dict[str, dict[str, float]] | None = None,
    seconds: tuple[float, float] = (0.0, 0.0),
    better: bool = False,
) -> str:
    """An epoch that is done. metrics: on validation by ranking, where anything is held out.

    seconds: of an epoch, and of this evaluation. better: than any before.
    """
    line = f"epoch {epoch:>3}  loss {loss:.4f}"
    if metrics is None:
        return line
    sampled, full = (metrics[ranking]["ndcg@10"] for ranking in ("sampled", "full"))
    return (
        f"{line}  valid NDCG@10 {sampled:.4f} sampled {full:.4f} full"
        f"  {seconds[0]:.1f} s/epoch + {seconds[1]:.1f} s" + ("  best" if better else "")
    )

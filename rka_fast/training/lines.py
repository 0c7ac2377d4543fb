"""The lines that a training prints, above its progress bar."""

from __future__ import annotations

from tqdm import tqdm


def tell(line: str) -> None:
    """Print a line above the bar."""
    with tqdm.external_write_mode():
        print(line, flush=True)


def speed_line(step: float, steps_per_epoch: int, evaluation: float | None) -> str:
    """What a step, an epoch and an evaluation take, in seconds. evaluation: None without one."""
    epoch = f"{step * steps_per_epoch:,.1f} s an epoch of {steps_per_epoch:,} steps"
    line = f"speed: {step:.2g} s a step, {epoch}"
    return line if evaluation is None else f"{line}, about {evaluation:,.1f} s an evaluation"


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

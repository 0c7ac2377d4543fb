"""What a run reports to the trackers of experiments that a person uses, through accelerate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rka_fast.errors import ConfigError, hint

if TYPE_CHECKING:
    from accelerate import Accelerator

    from rka_fast.training.config import Config

TRACKERS = (
    "tensorboard", "wandb", "mlflow", "trackio", "comet_ml", "aim", "clearml", "dvclive", "swanlab",
)  # fmt: skip
"""The trackers by name, which is that of their package."""

PROJECT = "rka_fast"


def tracker_names(text: str | None) -> list[str]:
    """The names between the commas. Raises ConfigError for unknown ones."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in TRACKERS:
            raise ConfigError(f"track {name!r} is not known; {hint(name, TRACKERS)}")
    return names


def installed_trackers(text: str | None) -> list[str]:
    """The names between the commas. Raises ConfigError for unknown ones, and for packages that are
    not there."""
    from accelerate.tracking import get_available_trackers

    names = tracker_names(text)
    there = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    if missing := [name for name in names if name not in there]:
        raise ConfigError(
            f"track {', '.join(missing)}: not installed; pip install "
            f"{' '.join(name.replace('comet_ml', 'comet-ml') for name in missing)}"
        )
    return names


class Tracking:
    """Reports of one run; does nothing where no tracker was asked for.

    accelerator: made with the trackers' names.
    """

    def __init__(self, accelerator: Accelerator, config: Config) -> None:
        self.accelerator = accelerator
        self.started = not accelerator.log_with
        self.config = {name: value for name, value in config.to_json().items() if value is not None}

    def log(self, values: dict[str, Any], step: int) -> None:
        """Numbers by name after a step; those in dictionaries as outer/inner."""
        if not self.accelerator.log_with:
            return
        if not self.started:
            self.accelerator.init_trackers(PROJECT, config=self.config)
            self.started = True
        self.accelerator.log(flat(values), step=step)

    def finish(self) -> None:
        """Let the trackers write what they hold."""
        for tracker in getattr(self.accelerator, "trackers", ()):
            tracker.finish()


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """{"a": {"b": 1}} as {"a/b": 1}."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}/")
        else:
            found[f"{prefix}{name}"] = value
    return found

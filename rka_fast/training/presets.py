"""Settings of models as their authors have them, by name."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, NamedTuple


class Preset(NamedTuple):
    """Settings of `Config`, those left out at their defaults, and where they come from."""

    source: str
    settings: dict[str, Any]


@functools.cache
def presets() -> dict[str, Preset]:
    """All by name, as presets.json has them."""
    text = Path(__file__).with_name("presets.json").read_text(encoding="utf-8")
    return {name: Preset(**values) for name, values in json.loads(text).items()}

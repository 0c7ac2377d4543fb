"""The page of an explanation."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from rka_fast.explaining.explanation import Change, Explanation, Recommended
from rka_fast.models import MODELS
from rka_fast.models.rksa import KERNELS
from rka_fast.pages.charts import heat_map
from rka_fast.pages.rendering import Page, later, name, page

KERNEL_TITLES = {
    "cooccurrence": "counting kernel",
    "item": "item kernel",
    "user": "user kernel",
    "mixture": "mixture",
}


def explain_page(found: Explanation) -> Page:
    """One HTML file that loads nothing."""
    return page(
        "explain.html",
        found=found,
        title=MODELS[found.model].title,
        model_draws=found.draws > 0,
        gaps=_gaps(found),
        full_weight=_largest_weight(found),
        share_scale=_share_scale(found),
        full_score=max(abs(r.score) for r in found.recommended) or 1.0,
        kernel_titles=KERNEL_TITLES,
        kernels=_used(found),
        heat_maps=_heat_maps(found),
        ids={x.item.id for x in found.recommended},
        unchanged=sum(not change.gone for change in found.changes),
        changes=_changes(found),
        rows=_rows,
    )


def _rows(found: Explanation, place: int) -> list[dict[str, Any]]:
    """What is told of a recommended item and each event, the latest first."""
    shown: Recommended = found.recommended[place]
    rows = []
    for i, event in reversed(list(enumerate(found.history))):
        kernels = found.kernels.values if found.kernels else {}
        rows.append(
            {
                "number": i + 1,
                "item": event.item,
                "share": shown.parts.items[i] + shown.parts.places[i] if shown.parts else None,
                "kernels": {name: kernels[name][place][i] for name in _used(found)},
                "without": shown.without[i] if shown.without else None,
            }
        )
    return rows


def _changes(found: Explanation) -> list[tuple[list[int], Change]]:
    """The events by their numbers, the latest first, that make the same change, and that change."""
    together: dict[str, tuple[list[int], Change]] = {}
    for number in range(len(found.changes), 0, -1):
        change = found.changes[number - 1]
        if change.gone:
            together.setdefault(repr(change), ([], change))[0].append(number)
    return list(together.values())


def _used(found: Explanation) -> list[str]:
    """The kernels that the model uses, and the mixture where it mixes several."""
    if not found.kernels:
        return []
    names = [kernel for kernel in KERNELS if found.kernels.weights[kernel] > 0]
    return names + ["mixture"] * (len(names) > 1)


def _gaps(found: Explanation) -> list[str]:
    """How much later than the one before each event is, and the question than the last event."""
    times = [event.time for event in found.history] + [found.at]
    return ["", *map(later, times, times[1:])]


def _largest_weight(found: Explanation) -> float:
    tops = [1e-9]
    for block in found.attention:
        tops += block.weights + [spread.high for spread in block.drawn or ()]
    return max(tops)


def _share_scale(found: Explanation) -> tuple[float, float]:
    """The ends of the scale of all shares, so that bars of several items compare."""
    values = [0.0]
    for shown in found.recommended:
        if shown.parts:
            values += map(sum, zip(shown.parts.items, shown.parts.places, strict=True))
            values.append(shown.parts.constants)
    low, high = min(values), max(values)
    return low, high if high > low else low + 1.0


def _heat_maps(found: Explanation) -> list[tuple[str, Markup]]:
    if not found.kernels:
        return []
    rows = [name(event.item) for event in found.history]
    columns = [name(shown.item) for shown in found.recommended]
    weights = found.kernels.weights
    maps = []
    for kernel in _used(found):
        title = KERNEL_TITLES[kernel]
        label = title if kernel == "mixture" else f"{title}, {weights[kernel]:.0%} of the mixture"
        maps.append((label, heat_map(label, found.kernels.values[kernel], rows, columns)))
    return maps

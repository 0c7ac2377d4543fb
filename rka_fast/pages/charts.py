"""Charts as inline SVG: drawn for the width of a phone, coloured by the page's style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

WIDTH, HEIGHT = 350, 220  # of a line chart, in units that a phone shows as pixels
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 34  # around its axes
CELL = 15  # of a heat map
COLOURS = 8  # that the style has


@dataclass(frozen=True)
class Line:
    """points: (x, y) by rising x. colour: number of a colour of the style. mark: a point to be
    seen. A level (one y at every x) is dashed.
    """

    label: str
    colour: int
    points: list[tuple[float, float]] = field(default_factory=list)
    mark: tuple[float, float] | None = None
    level: float | None = None


def line_chart(title: str, lines: Sequence[Line], x_label: str, from_zero: bool) -> Markup:
    """Lines over one pair of axes. title: for those who cannot see it."""
    from matplotlib.ticker import MaxNLocator

    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [
        line.level for line in lines if line.level is not None
    ]
    y_ticks = MaxNLocator(5).tick_values(min(ys + [0.0] * from_zero), max(ys))
    low, high = min(xs), max(max(xs), min(xs) + 1)
    x_ticks = MaxNLocator(6, integer=True).tick_values(low, high)
    bottom, top = y_ticks[0], y_ticks[-1]

    def x_of(x: float) -> float:
        return LEFT + (x - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for y, label in zip(y_ticks, _labels(y_ticks), strict=True):
        parts.append(_path("grid", [(LEFT, y_of(y)), (WIDTH - RIGHT, y_of(y))]))
        parts.append(_text(LEFT - 5, y_of(y) + 4, label, "end"))
    for x in x_ticks:
        if low <= x <= high:
            parts.append(_text(x_of(x), HEIGHT - BOTTOM + 15, f"{x:.4g}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4, x_label, "middle"))
    for line in lines:
        colour = f"c{line.colour % COLOURS}"
        if line.level is not None:
            y = y_of(line.level)
            parts.append(_path(f"line level {colour}", [(LEFT, y), (WIDTH - RIGHT, y)]))
        if line.points:
            parts.append(_path(f"line {colour}", [(x_of(x), y_of(y)) for x, y in line.points]))
        if line.mark:
            place = x_of(line.mark[0]), y_of(line.mark[1])
            dot = Markup('<circle class="mark {}" cx="{:.1f}" cy="{:.1f}" r="5"/>')
            parts.append(dot.format(colour, *place))
    return _svg(WIDTH, HEIGHT, title, parts, "chart")


def _labels(ticks: Sequence[float]) -> list[str]:
    """With as many digits as put each within a hundredth of their distance of its place."""
    near, labels = (ticks[1] - ticks[0]) / 100, []
    for digits in range(4, 18):
        labels = [f"{y:.{digits}g}" for y in ticks]
        if all(abs(float(x) - y) < near for x, y in zip(labels, ticks, strict=True)):
            break
    return labels


def heat_map(title: str, values: list[list[float]], rows: list[str], columns: list[str]) -> Markup:
    """values[column][row] in 0..1 as the strength of a colour, with names to point at."""
    left, top = 20, 14
    parts = [
        _text(left + CELL * (x + 0.5), top - 4, str(x + 1), "middle")
        for x in range(len(columns))
        if x % 2 == 0
    ]
    parts += [
        _text(left - 4, top + CELL * (y + 0.5) + 3.5, str(y + 1), "end")
        for y in range(len(rows))
        if y % 2 == 0
    ]
    cell = Markup(
        '<rect class="heat" x="{}" y="{}" width="{}" height="{}" fill-opacity="{:.3f}">'
        "<title>{} / {}: {:.3f}</title></rect>"
    )
    for x, column in enumerate(values):
        for y, value in enumerate(column):
            place = (left + CELL * x, top + CELL * y, CELL - 1, CELL - 1)
            strength = min(max(value, 0.0), 1.0)
            parts.append(cell.format(*place, strength, rows[y], columns[x], value))
    size = left + CELL * len(columns), top + CELL * len(rows)
    return _svg(*size, title, parts, "heatmap")


def _svg(width: float, height: float, title: str, parts: list[Markup], kind: str) -> Markup:
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" width="{}" role="img" aria-label="{}">')
    return (
        head.format(kind, width, height, width, title) + Markup("").join(parts) + Markup("</svg>")
    )


def _path(kind: str, points: list[tuple[float, float]]) -> Markup:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(kind, where)


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )

"""Templates to pages; everything from the data is escaped on its way."""

from __future__ import annotations

import datetime
import functools
import html
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from rka_fast.errors import printable
from rka_fast.version import __version__

LONGEST = 120  # characters of an id or a title
_DATES = (1e8, 4e9)  # seconds since 1970 that are taken for a time: 1973 to 2096


class Page(str):
    """HTML of a whole page, which a notebook shows in a frame of its own."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        frame = '<iframe srcdoc="{}" style="width: 100%; height: 40rem; border: 0"></iframe>'
        return frame.format(html.escape(self))


def page(template: str, **values: Any) -> Page:
    """The page of a template of the package."""
    return Page(_environment().get_template(template).render(version=__version__, **values))


@functools.lru_cache(1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("rka_fast.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=shown, name=name, when=when, number=number, signed=signed, percent=percent
    )
    return environment


def shown(text: object) -> str:
    """Text of the data, its control characters visible."""
    return printable(text, LONGEST)


class Named(Protocol):
    """An item by its id and, if it has one, its title."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str | None: ...


def name(item: Named) -> str:
    """The title of an item, or its id where it has none."""
    return shown(item.title or item.id)


def when(time: float | None) -> str:
    """A time of the data as a date and a time of day (UTC); a number that is none as it is."""
    if time is None:
        return ""
    if not _DATES[0] <= time <= _DATES[1]:
        return f"{time:g}"
    return f"{datetime.datetime.fromtimestamp(time, datetime.timezone.utc):%Y-%m-%d %H:%M}"


def later(first: float | None, second: float | None) -> str:
    """How long after `first` is `second`, in the largest unit that fits, or nothing."""
    if first is None or second is None or not _DATES[0] <= first <= second <= _DATES[1]:
        return ""
    seconds = second - first
    for size, unit in ((365.25 * 86400, "year"), (86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = round(seconds / size)
            return f"{count:,} {unit}{'' if count == 1 else 's'} later"
    return ""


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits that count; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def signed(value: float, digits: int = 3) -> str:
    """A number with a sign that is as wide as its digits."""
    return f"{value:+.{digits}f}".replace("-", "−")


def percent(value: float) -> str:
    """A share of 1 in percent."""
    return f"{100 * value:.0f} %" if value >= 0.095 or value == 0 else f"{100 * value:.1f} %"

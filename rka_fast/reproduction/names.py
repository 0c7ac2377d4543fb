"""Names on the command line, and what was meant by one that is not known."""

from collections.abc import Iterable

from rka_fast.errors import ConfigError, hint


def choose(given: str, known: Iterable[str], kind: str) -> list[str]:
    """The names of a comma-separated list in the order given; "all" stands for all known.

    Raises ConfigError for an unknown name, with the nearest one, and where there is none.
    """
    known = list(known)
    names = list(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    if not names:
        raise ConfigError(f"no {kind} given in {given!r}; known are all, {', '.join(known)}")
    for name in names:
        if name != "all":
            check(name, known, kind)
    return known if "all" in names else names


def check(name: str, known: Iterable[str], kind: str) -> None:
    """Raise ConfigError unless `name` is known."""
    known = list(known)
    if name not in known:
        raise ConfigError(f"unknown {kind} {name!r}; {hint(name, known)}")

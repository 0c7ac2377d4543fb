"""What a server takes at most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """body: bytes of a request. history: items of one. top: items of an answer."""

    body: int = 2**20
    history: int = 10_000
    top: int = 1000

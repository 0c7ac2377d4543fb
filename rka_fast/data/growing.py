"""Arrays that are made bit by bit."""

from __future__ import annotations

import numpy as np


class Growing:
    """An array of one dimension, added to at its end where it lies: there never are two of it."""

    def __init__(self, dtype: np.dtype | type) -> None:
        self.array = np.empty(0, dtype)

    def add(self, values: np.ndarray) -> None:
        """Put values behind those that are there; nobody else may hold the array until the last."""
        end = len(self.array)
        self.array.resize(end + len(values), refcheck=False)
        self.array[end:] = values

"""Approximate search in a large catalogue, ordered by exact scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rka_fast.data.sequences import distinct, lookup
from rka_fast.errors import ConfigError
from rka_fast.models.base import Recommender

MORE = 4  # candidates for each item of a list, beside those that may be hidden
_LEAST = 39  # vectors a list of the index wants for its centre
SAMPLED = 64  # vectors a centre is found from
_VALUES = 2**23  # of candidates' vectors at a time (32 MiB)


class Nearest:
    """Item vectors in lists around centres, of which a search reads the nearest ones (faiss).

    The index keeps half precision; what it finds is scored with the vectors themselves.

    vectors: float32 (C, width), on the CPU. Raises ConfigError where faiss is not installed.
    """

    def __init__(self, vectors: Tensor) -> None:
        try:
            import faiss
        except ImportError:
            raise ConfigError("ann needs faiss: pip install 'rka_fast[ann]'") from None
        self.vectors = vectors
        count, width = vectors.shape
        lists = max(1, min(int(count**0.5), count // _LEAST))
        faiss.omp_set_num_threads(torch.get_num_threads())
        form = f"IVF{lists},SQfp16"
        self.index: Any = faiss.index_factory(width, form, faiss.METRIC_INNER_PRODUCT)
        self.index.nprobe = max(min(lists, 16), lists // 16)
        self.index.cp.min_points_per_centroid = 1  # few vectors are no reason for a warning
        found = vectors.detach().numpy()
        self.index.train(found[:: max(1, count // (SAMPLED * lists))])
        self.index.add(found)

    def best(
        self, states: Tensor, hidden: tuple[np.ndarray, np.ndarray], top: int
    ) -> tuple[dict[str, Tensor], np.ndarray]:
        """Places and scores (B, min(top, C)) of the best, and bool (B,): whether the row is full.

        states: (B, width). hidden: rows and places of what may not be shown.
        """
        states, total = states.float().cpu(), len(self.vectors)
        rows, places = hidden
        keys = distinct(rows * total + places)  # what somebody had twice is hidden once
        gone = np.bincount(keys // total, minlength=len(states))
        count = min(total, MORE * top + int(gone.max(initial=0)))
        found = np.sort(self.index.search(states.numpy(), count)[1], axis=1)  # by place
        scores = self._scores(states, found)
        taken = lookup(keys, np.arange(len(states))[:, None] * total + found)[1]
        scores[torch.from_numpy(taken | (found < 0))] = -torch.inf
        scores.nan_to_num_(-torch.inf, -torch.inf, -torch.inf)
        # Of equal scores the lower place comes first, as in exact search.
        order = scores.argsort(dim=1, descending=True, stable=True)[:, : min(top, total)]
        best = {"items": torch.from_numpy(found).clamp_min(0), "scores": scores}
        best = {name: x.gather(1, order) for name, x in best.items()}
        full = (best["scores"] > -torch.inf).sum(1).numpy() >= np.minimum(top, total - gone)
        return best, full

    def _scores(self, states: Tensor, places: np.ndarray) -> Tensor:
        """Of each state with its own places, (B, M), in bounded memory."""
        which = torch.from_numpy(places).clamp_min(0)
        rows = max(1, _VALUES // max(1, which.shape[1] * states.shape[1]))
        parts = zip(which.split(rows), states.split(rows), strict=True)
        return torch.cat([(self.vectors[of] @ x[:, :, None]).squeeze(-1) for of, x in parts])


def check_model(model: Recommender) -> None:
    """Raise ConfigError for a model whose scores are no inner products."""
    if not model.has_vectors or type(model).match is not Recommender.match:
        raise ConfigError(
            f"ann cannot be had of {model.title}, whose scores are no inner products; leave it out"
        )

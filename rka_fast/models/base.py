"""The interface that every recommender has, from popularity to RKSA."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from rka_fast.models.losses import (
    DEFAULT_OPTIONS,
    STATE_LOSSES,
    LossOptions,
    recommendation_loss,
)

if TYPE_CHECKING:
    from typing_extensions import Self

    from rka_fast.data.batches import Batch
    from rka_fast.data.split import Split


class Recommender(nn.Module):
    """Scores every item as the next one after a batch of histories.

    The constructor's positional parameters are facts of the catalogue, named like attributes of
    `Sequences` (`features`, those of the items, may be None); its keywords are the model's
    settings, and its signature is where their defaults stand.

    A model that learns by gradients implements `encode` and `item_vectors` (and, if its score is
    not their inner product, `match` and `training_loss`). One that is fitted at once sets
    `trains` to False and implements `fit` and, if it has no vectors, `scores`.
    """

    title: ClassVar[str]  # for people
    losses: ClassVar[tuple[str, ...]] = STATE_LOSSES  # the first is the default
    defaults: ClassVar[dict[str, Any]] = {}  # of the training, where they are not the general ones
    trains: ClassVar[bool] = True
    uses_cooccurrence: ClassVar[bool] = False  # wants Batch.cooccurrence
    has_attention: ClassVar[bool] = False  # its blocks are those of a transformer
    has_vectors: ClassVar[bool] = True  # scores match `last_states` with `item_vectors`
    uses_times: bool = False  # wants Batch.times and Batch.request_times
    loss_options: LossOptions = DEFAULT_OPTIONS

    @classmethod
    def settings(cls) -> dict[str, Any]:
        """The model's settings with their defaults: the keywords of the constructor."""
        parameters = inspect.signature(cls).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    @classmethod
    def from_config(cls, config: object, split: Split) -> Self:
        """The model with the settings that `config` has, for the catalogue of a split."""
        parameters = inspect.signature(cls).parameters.values()
        sizes = [
            getattr(split.sequences, p.name) for p in parameters if p.kind is not p.KEYWORD_ONLY
        ]
        settings = {name: getattr(config, name) for name in cls.settings() if hasattr(config, name)}
        model = cls(*sizes, **settings)
        options = {name: getattr(config, name, None) for name in LossOptions._fields}
        given = {name: value for name, value in options.items() if value is not None}
        model.loss_options = DEFAULT_OPTIONS._replace(**given)
        return model

    def tables(self) -> dict[str, str]:
        """The weights with a row for each "item" or "user" of the catalogue, by their name."""
        found = {}
        for name, module in self.named_children():
            if isinstance(module, nn.Embedding) and name == "users":
                found[f"{name}.weight"] = "user"
            elif isinstance(module, nn.Embedding) and module.padding_idx == 0:
                found[f"{name}.weight"] = "item"
        return found

    def use_sparse_gradients(self, sparse: bool = True) -> None:
        """Let looking up rows of the tables give sparse gradients, of the rows alone.

        Where the model computes on a whole table its gradient stays dense.
        """
        for name in self.tables():
            table: Any = self.get_submodule(name.removesuffix(".weight"))
            table.sparse = sparse
        self.loss_options = self.loss_options._replace(sparse=sparse)

    @property
    def uses_kernel_loss(self) -> bool:
        """Whether it wants Batch.kernel_items and Batch.kernel_counts."""
        return False

    def kept_beside(self, positions: float, pairs: float) -> float:
        """About how many numbers a step keeps beside those of the width for each position.

        positions: of a batch. pairs: of positions of one sequence, in all sequences of the batch.
        """
        return 0.0

    def check_device(self, device: torch.device) -> None:
        """Raise ValueError, with every reason, where the model cannot compute on this device."""

    def fit(self, split: Split) -> None:
        """Estimation from the training events at once; nothing for models that train."""

    def encode(self, batch: Batch) -> Tensor:
        """States (B, n, width) after each position of Batch.items."""
        raise NotImplementedError(f"{type(self).__name__} scores items without states of histories")

    def item_vectors(self) -> Tensor:
        """Output embedding (num_items + 1, width); row 0 is padding."""
        raise NotImplementedError(f"{type(self).__name__} scores items without vectors of theirs")

    def compared(self, targets: Tensor, loss: str) -> tuple[Tensor, Tensor]:
        """The item vectors that a loss compares with, and the targets as rows of them."""
        return targets, self.item_vectors()

    def extra_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted further terms of the loss by name."""
        return {}

    def training_loss(self, batch: Batch, loss: str) -> dict[str, Tensor]:
        """ "loss" (mean over the batch's targets, plus further terms) and its parts.

        loss: a name out of `losses`.
        """
        wanted = batch.targets > 0
        negatives, rows = batch.negatives, None
        if negatives is not None and negatives.dim() == 3:
            negatives = negatives[wanted]
        elif negatives is not None and negatives.dim() == 2:
            rows = wanted.nonzero()[:, 0]
        targets, vectors = self.compared(batch.targets[wanted], loss)
        main = recommendation_loss(
            loss, self.encode(batch)[wanted], targets, vectors,
            negatives, rows, self.loss_options,
        )  # fmt: skip
        if not (extra := self.extra_losses(batch)):
            return {"loss": main}
        return {"loss": sum(extra.values(), start=main), "recommendation": main, **extra}

    def scores(self, batch: Batch) -> Tensor:
        """Score of every item as the next one, (B, num_items + 1), the padding at -inf."""
        return without_padding(self.match(self.last_states(batch), self.item_vectors()))

    def last_states(self, batch: Batch) -> Tensor:
        """What the scores read of each history, (B, width)."""
        return self.encode(batch)[:, -1]

    def match(self, states: Tensor, vectors: Tensor) -> Tensor:
        """Scores (B, M) of items by their vectors (M, width), rows of `item_vectors`."""
        return states @ vectors.T


def without_padding(scores: Tensor) -> Tensor:
    """Scores (B, num_items + 1) with the padding column at -inf."""
    scores[:, 0] = -torch.inf
    return scores

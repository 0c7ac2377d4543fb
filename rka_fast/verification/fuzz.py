"""Random calls of the operator: one seed gives one call, whatever came before it."""

import math
import random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rka_fast.ops.arguments import ACTIVATIONS, MODES, TIME_BUCKETS, Arguments
from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.groups import Covariance, Kernels, Location, RelativeTimes, Shape
from rka_fast.verification.bounds import Comparison, compare

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# What foreign code writes for -inf.
STAND_INS = (-1e4, -65504.0, -1e9, torch.finfo(torch.float32).min, -math.inf)
KINKED = ("leaky_relu", "relu")


class Case(NamedTuple):
    """One call, the same call as the reference is told it, and a line that describes it."""

    inputs: dict[str, Any]
    exact: dict[str, Any]
    options: dict[str, Any]
    text: str


def check(seed: int, backend: str, device: str = "cpu") -> tuple[Case, dict[str, Comparison]]:
    """The call of this seed, and how far from the reference its results are."""
    case = draw(seed, backend, device)
    return case, compare(case.inputs, backend, case.exact, **case.options)


def draw(seed: int, backend: str, device: str = "cpu") -> Case:
    """The call of this seed, of a dtype and size that the backend serves."""
    choice = random.Random(seed)
    new = Tensors(choice, seed, backend, device)
    covariance = shape = None
    mode = choice.choices(MODES, (6, 3, 1))[0]
    activation = choice.choice(ACTIVATIONS)
    whole = activation in KINKED  # whose slope must not hang on the rounding of a score near 0
    location = new.pair(choice.randint(1, 40), whole)
    if mode != "location" or choice.random() < 0.2:
        covariance = Covariance(
            *new.pair(choice.randint(1, 40), False), new.kernels(), new.some((new.heads,), 0.7)
        )
        if choice.random() < 0.8:
            shape = Shape(*new.pair(choice.randint(1, 40), whole))
    inputs = {"value": new.strided(new.keys, choice.choice((1, 3, 8, 33)))}
    options: dict[str, Any] = {
        "row_offset": new.row_offset,
        "scale": choice.uniform(0.1, 0.5) if choice.random() < 0.2 else None,
        "mode": mode,
        "activation": activation,
        "seed": choice.randrange(2**63),
        "dropout_p": choice.choice((0.0, 0.0, 0.3)),
        "jitter": choice.choice((1e-4, 1e-4, 1e-2)),
    }
    hidden, how = new.masks(options)
    bias, times = new.bias(), new.times()
    exact_bias = bias
    exact_options = {}
    if hidden is not None and how == "boolean":
        options["mask"] = ~hidden
    elif hidden is not None:
        # A number stands for the mask; the reference is told the mask itself.
        value = choice.choice(STAND_INS)
        finite = torch.zeros(hidden.shape, device=device).masked_fill(hidden, value)
        bias = finite if bias is None else bias.detach().float() + finite
        exact_bias = None if exact_bias is None else exact_bias.detach().float()
        exact_options["mask"] = ~hidden
        how = f"{value:g}"
    common = {**inputs, "covariance": covariance, "shape": shape}
    if mode == "sample" and choice.random() < 0.1:
        options["draws"] = choice.randint(1, 3)
    text = (
        f"{str(new.dtype).removeprefix('torch.')} batch {new.batch} heads {new.heads} "
        f"queries {new.rows}{f' from {new.row_offset}' if new.row_offset else ''} "
        f"keys {new.keys} mode {mode} activation {activation} "
        f"items {new.items} masks {new.described(options, how if hidden is not None else None)}"
        + (f" draws {options['draws']}" if "draws" in options else "")
    )
    return Case(
        {**common, "location": Location(*location, bias, times)},
        {**common, "location": Location(*location, exact_bias, times), "options": exact_options},
        options,
        text,
    )


class Tensors:
    """Draws the tensors of one call, of what the backend serves."""

    def __init__(self, choice: random.Random, seed: int, backend: str, device: str) -> None:
        self.choice, self.backend, self.device = choice, backend, device
        self.rng = torch.Generator().manual_seed(seed)
        dtypes = [dtype for dtype in DTYPES if self.serves(dtype)]
        weights = [{torch.float32: 6, torch.float64: 1}.get(dtype, 2) for dtype in dtypes]
        self.dtype = choice.choices(dtypes, weights)[0]
        self.wide = torch.promote_types(self.dtype, torch.float32)
        self.items = "none"
        self.sizes()

    def serves(self, dtype: torch.dtype) -> bool:
        x = torch.zeros(1, 1, 1, 1, dtype=dtype, device=self.device)
        return not BACKENDS[self.backend].why_not(Arguments(x, x, x))

    def sizes(self) -> None:
        choice = self.choice
        self.batch = self.heads = 1
        self.row_offset = 0
        low, high = choice.choices(((1, 8), (1, 70), (65, 260), (257, 1024)), (40, 48, 10, 2))[0]
        self.rows = self.keys = choice.randint(low, high)
        if choice.random() < 0.2:
            self.rows = choice.randint(1, min(high, 200))
            if self.rows <= self.keys:
                self.row_offset = choice.randint(0, self.keys - self.rows)
        self.aligned = self.row_offset + self.rows <= self.keys  # query t is key t + row_offset
        self.aligned &= self.row_offset > 0 or self.rows == self.keys
        if self.keys <= 70:
            self.batch, self.heads = choice.randint(1, 3), choice.randint(1, 3)
        elif self.keys <= 260:
            self.batch, self.heads = choice.choice(((1, 1), (2, 1), (1, 2)))

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        x = torch.randn(shape, generator=self.rng, dtype=torch.float64)
        return x.to(dtype or self.dtype).to(self.device)

    def some(self, shape: tuple[int, ...], probability: float) -> Tensor | None:
        """Float32 (or wider) numbers, or None."""
        if self.choice.random() >= probability:
            return None
        return self.normal(*shape, dtype=self.wide)

    def strided(self, length: int, width: int, whole: bool = False) -> Tensor:
        """(B, H, length, width), in one of the layouts of which projections make views."""
        shape = (self.batch, self.heads, length, width)
        if whole:
            odd = 2 * torch.randint(-2, 2, shape, generator=self.rng) + 1
            x = odd.div(4).to(self.dtype).to(self.device)
        else:
            x = self.normal(*shape)
        x = x * 2.0 ** self.choice.choice((0, 0, 0, 0, -4, 2))
        layout = self.choice.choice(("plain", "heads last", "slice", "columns"))
        if layout == "heads last":
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        if layout == "slice":
            return torch.cat((x, x, x), -1)[..., width : 2 * width]
        if layout == "columns":
            return x.mT.contiguous().mT
        return x

    def pair(self, width: int, whole: bool) -> tuple[Tensor, Tensor]:
        """Queries and keys; `whole`: products of an odd number of odd numbers, never near zero."""
        width = width | 1 if whole else width
        return self.strided(self.rows, width, whole), self.strided(self.keys, width, whole)

    def kernels(self) -> Kernels:
        """Items that are different, few and repeated, nearly the same, or without features."""
        choice, batch, keys = self.choice, self.batch, self.keys
        width = choice.randint(1, 24)
        self.items = choice.choices(("different", "repeated", "close", "zero"), (6, 3, 1, 1))[0]
        known = keys if self.items == "different" else max(1, keys // 3)
        which = torch.stack([torch.randperm(keys, generator=self.rng) for _ in range(batch)])
        which = (which % known).to(self.device)
        dtype = choice.choice((self.dtype, self.wide))
        table = self.normal(batch, known, width, dtype=torch.float64)
        if self.items == "close":
            table = table[:, :1] + 1e-2 * table
        elif self.items == "zero":
            table[:, : (known + 1) // 2] = 0
        features = table.gather(1, which[..., None].expand(-1, -1, width)).to(dtype)
        gammas = [choice.choice((2.0, 2.0, 1.0, 0.01, 30.0)) for _ in range(2)]
        counts = None
        if self.aligned and choice.random() < 0.6:
            users = (torch.rand(batch, 30, known, generator=self.rng) < 0.3).to(self.device)
            seen = users.gather(2, which[:, None].expand(-1, 30, -1)).to(self.wide)
            counts = seen.mT @ seen
            counts = counts.long() if choice.random() < 0.2 else counts
        gate = None
        if choice.random() < 0.5:
            gate = self.normal(batch, width, dtype=self.wide).sigmoid().mul(2).to(dtype)
        mixture = None
        if choice.random() < 0.8 and (counts is not None or gate is not None):
            mixture = self.normal(choice.choice((1, batch)), 3, dtype=self.wide).softmax(-1)
        concentration = torch.tensor(gammas, dtype=self.wide, device=self.device)
        if choice.random() < 0.2:
            concentration = None
        return Kernels(features, concentration, mixture, gate, counts)

    def masks(self, options: dict[str, Any]) -> tuple[Tensor | None, str]:
        """Causality and padding into the options; what a mask hides, and how it is given."""
        choice, shape = self.choice, (self.batch, self.heads, self.rows, self.keys)
        if self.aligned and choice.random() < 0.5:
            options["is_causal"] = True
        if choice.random() < 0.4:
            padding = torch.zeros(self.batch, self.keys, dtype=torch.bool)
            for row in padding:
                kind, count = choice.choice(("left", "right", "any")), choice.randint(0, self.keys)
                if kind == "left":
                    row[:count] = True
                elif kind == "right":
                    row[self.keys - count :] = True
                else:
                    row[:] = torch.rand(self.keys, generator=self.rng) < 0.3
            options["key_padding_mask"] = padding.to(self.device)
        if choice.random() < 0.5:
            return None, ""
        size = [choice.choice((1, length)) for length in shape]
        hidden = torch.rand(size, generator=self.rng) < choice.choice((0.1, 0.5, 0.9))
        if choice.random() < 0.5:
            return hidden.to(self.device), "boolean"  # rows may see nothing
        # A number hides a key only from a row that sees another: the first one is left to all.
        hidden = hidden.expand(*size[:3], self.keys).clone()
        hidden[..., 0] = False
        options.pop("key_padding_mask", None)
        return hidden.to(self.device), "finite"

    def bias(self) -> Tensor | None:
        """Added to the location, of a shape that broadcasts."""
        choice, shape = self.choice, (self.batch, self.heads, self.rows, self.keys)
        if choice.random() < 0.7:
            return None
        dtype = choice.choice((self.dtype, self.wide))
        return self.normal(*(choice.choice((1, n)) for n in shape), dtype=dtype)

    def times(self) -> RelativeTimes | None:
        """Seconds between rows and keys, from none to years."""
        if self.choice.random() < 0.8:
            return None

        def seconds(length: int) -> Tensor:
            x = 10.0 ** (
                9 * torch.rand(self.batch, length, generator=self.rng, dtype=torch.float64)
            )
            return x.long().to(self.device)

        heads = self.choice.choice((1, self.heads))
        table = self.normal(heads, TIME_BUCKETS, dtype=self.wide)
        return RelativeTimes(seconds(self.rows), seconds(self.keys), table)

    def described(self, options: dict[str, Any], how: str | None) -> str:
        parts = [
            "causal" if "is_causal" in options else "",
            "padding" if "key_padding_mask" in options else "",
            how or "",
            "dropout" if options["dropout_p"] else "",
        ]
        return "+".join(filter(None, parts)) or "none"

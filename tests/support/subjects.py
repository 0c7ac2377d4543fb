"""What the tests of the operator are run over: every backend, on its device, in its precision."""

from typing import NamedTuple

import pytest
import torch
from support.emulation import EMULATIONS

from rka_fast import kernelized_attention
from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS
from rka_fast.ops.triton import interpreted


class Subject(NamedTuple):
    """A backend under test, called like `kernelized_attention` with tensors on the CPU.

    It computes on `device`; float64 is rounded to `dtype` and the output is float64 again, so
    that gradients are too. Other dtypes stay what they are.
    """

    name: str
    device: str = "cpu"
    dtype: torch.dtype = torch.float64

    def __call__(self, location, value, covariance=None, shape=None, **options):
        moved = self.moved(dict(options, location=location, covariance=covariance, shape=shape))
        output = kernelized_attention(value=self.moved(value), backend=self.name, **moved)
        return output.to("cpu", value.dtype)

    def moved(self, x):
        """x, or all in it, as the backend gets it."""
        if isinstance(x, dict):
            return {name: self.moved(y) for name, y in x.items()}
        if isinstance(x, tuple):
            return type(x)(*map(self.moved, x))
        if not isinstance(x, torch.Tensor):
            return x
        return x.to(self.device, self.dtype if x.dtype == torch.float64 else x.dtype)

    def why_not(self, keys: int = 1, dtype: torch.dtype | None = None, **arguments) -> list[str]:
        """The backend's own reasons why it does not serve such a call."""
        x = torch.zeros(1, 1, keys, 1, dtype=dtype or self.dtype, device=self.device)
        return BACKENDS[self.name].why_not(Arguments(x, x, x, **arguments))

    def needs(self, **call) -> None:
        """Skips, with those reasons, where it does not."""
        if reasons := self.why_not(**call):
            pytest.skip(f"{self.name}: {'; '.join(reasons)}")

    def needs_speed(self, work: str) -> None:
        """Skips where kernels are interpreted or emulated."""
        if interpreted() or self.name in EMULATIONS:
            pytest.skip(f"{self.name}: {work} take minutes to hours here; fewer are tested")

    @property
    def tolerance(self):
        """Of results in float64: its rounding, or float32's grown by the conditioning of K.

        Rounding K by eps moves its factor by up to eps n over its least eigenvalue, which is
        above .05 in `random_inputs` of 4 to 9 items.
        """
        grown = {"rtol": 0, "atol": 9 * torch.finfo(torch.float32).eps / 0.05}
        return {"rtol": 1e-12, "atol": 1e-12} if self.dtype == torch.float64 else grown


EXACT = Subject("reference")
DTYPES = (torch.float64, torch.float32)


def subjects(names) -> list[Subject]:
    """Each on the first device and in the widest precision that it serves, where it serves any."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    tried = ([Subject(n, d, x) for d in devices for x in DTYPES] for n in names)
    served = ([s for s in some if not s.why_not()] for some in tried)
    return [some[0] for some in served if some]

"""One list of arguments: in Python, and the same in the libraries of C++ and CUDA."""

import pytest
import torch

from rka_fast import native
from rka_fast.ops.arguments import DIFFERENTIABLE, SCHEMA, TENSORS, Arguments, fold
from rka_fast.ops.library import forward_op


def declared(schema) -> list[tuple[str, str]]:
    return [(a.name, str(a.type)) for a in schema.arguments]


def in_python() -> list[tuple[str, str]]:
    """Names and types of the registered operator, without the backend."""
    *own, backend = declared(forward_op._schema)
    assert backend == ("backend", "str")
    return own


def test_the_registered_operator_has_the_fields():
    assert [name for name, _ in in_python()] == list(Arguments._fields)
    for name, kind in in_python():
        assert kind.startswith(("Tensor", "Optional[Tensor]")) == (name in TENSORS), name
    assert SCHEMA.count(",") == len(Arguments._fields) - 1


@pytest.mark.parametrize("library", ["_cpp", "_cuda"])
def test_the_libraries_have_the_same_list(library):
    if reasons := native.why_not(library):
        pytest.skip(f"{library}: {'; '.join(reasons)}")
    name = f"attention{library}"
    forward = getattr(torch.ops.rka_fast_native, name).default._schema
    backward = getattr(torch.ops.rka_fast_native, f"{name}_backward").default._schema
    assert declared(forward) == in_python()
    assert declared(backward) == [("grad", "Tensor"), ("needs", "List[int]"), *in_python()]


SHAPES = {
    "scale_bias": (2,),
    "concentration": (2,),
    "time_table": (1, 129),
    "bias": (1, 2, 4, 1),
    "mixture": (1, 3),
}


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_fold_is_the_gradient_of_spreading_out(name):
    """The shares of a kernel against autograd through the expansion that they come from."""
    argument = torch.randn(SHAPES.get(name, (3, 5)), dtype=torch.float64, requires_grad=True)
    if name == "bias":
        used = argument.expand(3, 2, 4, 6)
    elif name == "mixture":
        used = argument.expand(3, 3)
    elif name in SHAPES:
        used = argument.expand(3, *argument.shape)
    else:
        used = argument * 1.0
    shares = torch.randn(used.shape, dtype=torch.float64)
    (expected,) = torch.autograd.grad(used, argument, shares)
    folded = fold(name, shares, argument)
    assert folded.shape == argument.shape and folded.dtype == argument.dtype
    torch.testing.assert_close(folded, expected)
    assert fold(name, shares.float(), argument.half()).dtype == torch.float16

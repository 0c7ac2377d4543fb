"""`export`: a model with our attention as a file that runs without this package."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_map

from rka_fast.attention import KernelizedAttention
from rka_fast.context import attentions, use_draws
from rka_fast.errors import expect
from rka_fast.ops.library import plain_operators

KINDS = {".onnx": "ONNX", ".pt2": "a package of AOTInductor"}
_LARGEST_FILE = 2**31 - 2**20  # what protocol buffers hold


@runtime_checkable
class Exportable(Protocol):
    """What writes its own export: a run, which knows its inputs and has ids beside its model."""

    def export(self, folder: str | Path, format: str) -> Path:
        """Writes into a new folder and returns its path."""
        ...


def export(
    model: nn.Module | Exportable,
    path: str | Path,
    args: Sequence | None = None,
    keywords: Mapping | None = None,
    *,
    mode: str = "mean",
    dynamic_shapes: Any = None,
    names: tuple[Sequence[str], Sequence[str]] | None = None,
    format: str = "onnx",
) -> Path:
    """Writes `model` to `path`: ".onnx" for ONNX, ".pt2" for `torch._inductor.aoti_load_package`.

    Of a run, `path` is a new folder, for the graph from histories to the best items with the ids
    of the items, and the rest of the arguments but `format` has no meaning.

    The file holds PyTorch's own operators only, so that it runs in a process without rka_fast.

    Args:
        model: a `KernelizedAttention` or a model, in evaluation; or an `rka_fast.Run`.
        path: its suffix says what to write.
        args, keywords: example inputs. A single `KernelizedAttention` needs none: it is exported as
            self-attention of one input (batch, length, embed_dim).
        mode: of every attention, "mean" or "location": a file draws nothing.
        dynamic_shapes: as in `torch.export.export`. By default every dimension of the inputs may
            change, unless the model fixes it, as it does widths.
        names: of inputs and outputs in ONNX.
        format: of a run, "onnx" or "aoti".

    Raises:
        ValueError, TypeError: for another suffix or mode, a model in training, missing or unknown
            example inputs.
        ImportError: where ONNX's packages are missing.
    """
    expect("model", model, nn.Module | Exportable, "a torch.nn.Module or an rka_fast.Run")
    path = Path(expect("path", path, str | Path, "a name or pathlib.Path"))
    if not isinstance(model, nn.Module):
        if any(x is not None for x in (args, keywords, dynamic_shapes, names)) or mode != "mean":
            raise ValueError("args: expected a path and format alone with a run, got more")
        return model.export(path, format)
    if format != "onnx":
        raise ValueError(
            f"format: expected it with a run alone, got {format!r}; a path's suffix says it"
        )
    if path.suffix not in KINDS:
        kinds = " or ".join(f"{suffix} ({kind})" for suffix, kind in KINDS.items())
        raise ValueError(f"path: expected a name that ends in {kinds}, got {str(path)!r}")
    if mode not in ("mean", "location"):
        raise ValueError(f"mode: expected mean or location, got {mode!r}: a file draws nothing")
    if model.training:
        raise ValueError("model: expected one in evaluation, got one in training: model.eval()")
    if args is None:
        model, args = _alone(model)
    if isinstance(args, (Tensor, str)):  # a tensor would fall into its rows
        raise TypeError(
            f"args: expected a tuple of example inputs, got {type(args).__name__}; pass (x,)"
        )
    args = tuple(expect("args", args, Sequence, "a tuple of example inputs"))
    keywords = {} if keywords is None else keywords
    keywords = dict(expect("keywords", keywords, Mapping, "a dict of example inputs"))
    try:
        signature(model.forward).bind(*args, **keywords)
    except TypeError as error:
        raise TypeError(
            f"args, keywords: expected those of {type(model).__name__}.forward: {error}"
        ) from None
    if dynamic_shapes is None:
        dynamic_shapes = tree_map(_every_dimension, (*args, *keywords.values()))
        if keywords:
            dynamic_shapes = tuple(dynamic_shapes)
            given, named = dynamic_shapes[: len(args)], dynamic_shapes[len(args) :]
            dynamic_shapes = _by_name(model, given, dict(zip(keywords, named, strict=True)))
    path.parent.mkdir(parents=True, exist_ok=True)
    draws = use_draws(model, mode) if attentions(model) else nullcontext()
    with torch.no_grad(), draws, plain_operators(), _without_nested_tensors():
        write = _write_onnx if path.suffix == ".onnx" else _write_package
        write(model, path, args, keywords, dynamic_shapes, names or (None, None))
    return path


def _write_onnx(
    model: nn.Module, path: Path, args: tuple, keywords: dict, dynamic_shapes: Any, names: tuple
) -> None:
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise ImportError(f"ONNX needs {' and '.join(missing)}: pip install 'rka_fast[export]'")
    size = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    torch.onnx.export(
        model, args, path, kwargs=keywords, dynamic_shapes=dynamic_shapes, dynamo=True,
        input_names=names[0], output_names=names[1],
        external_data=size > _LARGEST_FILE, verbose=False,
    )  # fmt: skip


def _write_package(
    model: nn.Module, path: Path, args: tuple, keywords: dict, dynamic_shapes: Any, names: tuple
) -> None:
    program = torch.export.export(model, args, keywords, dynamic_shapes=dynamic_shapes)
    torch._inductor.aoti_compile_and_package(program, package_path=str(path))


class _SelfAttention(nn.Module):
    def __init__(self, attention: KernelizedAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def _alone(model: nn.Module) -> tuple[nn.Module, tuple[Tensor]]:
    """A single self-attention and an example of its input."""
    if not isinstance(model, KernelizedAttention) or not model._qkv_same_embed_dim:
        raise ValueError(
            f"args: expected example inputs of {type(model).__name__}, got None; only a "
            "KernelizedAttention whose keys and values are as wide as its queries needs none"
        )
    weight = model.out_proj.weight
    shape = (2, 8) if model.batch_first else (8, 2)
    x = torch.zeros(*shape, model.embed_dim, dtype=weight.dtype, device=weight.device)
    return _SelfAttention(model).eval(), (x,)


def _every_dimension(x: Any) -> dict[int, Any] | None:
    """What may change of one example input."""
    return dict.fromkeys(range(x.dim()), Dim.AUTO) if isinstance(x, Tensor) else None


def _by_name(model: nn.Module, given: tuple, named: dict) -> dict:
    """Shapes of positional and keyword inputs by the names of `model.forward`."""
    names = signature(model.forward).parameters
    return dict(zip(names, given, strict=False)) | named


@contextmanager
def _without_nested_tensors() -> Iterator[None]:
    """Encoders turn padding into nested tensors in evaluation; a file has none."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

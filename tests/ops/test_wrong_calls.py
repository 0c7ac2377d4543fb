"""The registered operators, native ones too, refuse what their code cannot take, by name.

Each wrong call is made in a process of its own beside hundreds of others: a read out of bounds or a
missing pointer would end it, and the number of answers would fall short.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from support.slow import slow

import rka_fast
from rka_fast import native
from rka_fast.ops.arguments import DIFFERENTIABLE, MADE_OF, TENSORS
from rka_fast.ops.shapes import CALLER

HERE = Path(__file__).resolve()
B, H, N, M, W, F = 2, 2, 5, 5, 3, 4

READY = ("correlation", "factor", "prior")
META = "attempted to run this operator with Meta tensors"


def right(ready: bool = False) -> dict:
    """A call with everything, by name: the relations as what they are made of, or ready-made."""

    def new(*shape: int) -> torch.Tensor:
        return torch.rand(*shape)

    call = {
        "query": new(B, H, N, W), "key": new(B, H, M, W), "value": new(B, H, M, W),
        "bias": new(B, 1, N, M), "scale_query": new(B, H, N, W), "scale_key": new(B, H, M, W),
        "scale_bias": new(H), "shape_query": new(B, H, N, W), "shape_key": new(B, H, M, W),
        "features": new(B, M, F), "concentration": new(2) + 1, "mixture": torch.ones(B, 3) / 3,
        "gate": new(B, F), "time_table": new(H, 129),
        "correlation": torch.eye(M).expand(B, M, M), "factor": torch.eye(M).expand(B, M, M),
        "cooccurrence": torch.eye(M).expand(B, M, M).contiguous() * 4,
        "prior": new(B, 1, N, M), "mask": torch.ones(B, H, N, M, dtype=torch.bool),
        "padding": torch.zeros(B, M, dtype=torch.bool),
        "row_times": torch.arange(B * N).view(B, N), "key_times": torch.arange(B * M).view(B, M),
        "seed": torch.tensor(3), "causal": True, "mode": "sample", "activation": "tanh",
        "dropout": 0.1, "jitter": 1e-4, "scale": None, "row_offset": 0,
        "draws": None,
    }  # fmt: skip
    return call | dict.fromkeys(MADE_OF if ready else READY)


def wrong_tensors(target: str, call: dict, names: Iterable[str]) -> list[tuple[str, dict]]:
    """(the argument at fault, changes to the right call)."""
    found = []
    for name in names:
        x = call[name]
        longer = torch.cat((x, x), -1) if x.dim() else x.expand(2)
        if name != "value":  # a wider one is another call
            found.append((name, {name: longer}))
        if x.dim():
            found.append((name, {name: x[None, None, None]}))
            found.append((name, {name: x[..., :0]}))
            found.append((name, {name: torch.cat((x, x, x))}))
            found.append((name, {name: x.flatten()[0]}))
        found.append((name, {name: x.to(torch.complex64)}))
        if name != "cooccurrence":  # counts may be integers
            other = torch.float64 if x.dtype == torch.int64 else torch.int16
            found.append((name, {name: x.to(other)}))
        if target == "native":  # the fake kernel of the others takes these, the dispatcher none
            found.append((META, {name: x.to("meta")}))
        if name not in ("query", "key", "value", "bias", "scale_bias", "gate", "cooccurrence",
                        "mask", "padding", "time_table", "prior"):  # fmt: skip
            found.append((name, {name: None}))
    return found


def wrong(target: str) -> list[tuple[str, dict]]:
    """(the argument at fault, changes to the right call)."""
    call, ready = right(), right(ready=True)
    found = wrong_tensors(target, call, [name for name in TENSORS if name not in READY])
    for name, changes in wrong_tensors(target, ready, READY):
        found.append((name, ready | changes))
    for name in MADE_OF:
        found.append((name, ready | {name: call[name]}))
    fewer = {n: call[n][:, :, :3] for n in ("query", "scale_query", "shape_query")}
    fewer |= {"bias": None, "mask": None, "row_times": call["row_times"][:, :3]}
    found += [
        ("causal", fewer | {"cooccurrence": None}),
        ("mode", {"mode": "median"}), ("activation", {"activation": "gelu"}),
        ("dropout", {"dropout": 1.0}), ("dropout", {"dropout": -0.5}),
        ("jitter", {"jitter": 0.0}), ("jitter", {"jitter": float("nan")}),
        ("scale", {"scale": float("inf")}), ("row_offset", {"row_offset": -1}),
        ("row_offset", {"row_offset": 1}), ("draws", {"draws": 0}), ("seed", {"draws": 1}),
        ("seed", {"draws": 2, "seed": torch.arange(3)}), ("seed", {"seed": torch.arange(3)}),
        ("cooccurrence", fewer | {"causal": False, "cooccurrence": torch.ones(B, M - 1, M)}),
    ]  # fmt: skip
    return found


WRONG_NEEDS = ([-1], [len(DIFFERENTIABLE)], [0, 0], [99, 1], [2**40])


def answers(target: str) -> list[str]:
    """What the operators of `target` say to all wrong calls, one after the other."""
    if target in ("reference", "cpp"):
        forward = torch.ops.rka_fast.kernelized_attention
        backward, last = torch.ops.rka_fast.kernelized_attention_backward, (target,)
    elif target == "native":
        assert not native.why_not("_cpp")
        library, last = torch.ops.rka_fast_native, ()
        forward, backward = library.attention_cpp, library.attention_cpp_backward

    def attempt(function, *arguments) -> str:
        try:
            function(*arguments)
        except (RuntimeError, ValueError, TypeError) as error:
            return str(error)
        return "nothing"

    import rka_fast.ops.library  # noqa: F401  registers the operators

    call, grad, said = right(), torch.ones(B, H, N, W), []
    assert forward(*call.values(), *last).isfinite().all()
    assert forward(*right(ready=True).values(), *last).isfinite().all()
    for _, changes in wrong(target):
        values = (*(call | changes).values(), *last)
        said.append(attempt(forward, *values))
        said.append(attempt(backward, grad, [0], *values))
    values = (*call.values(), *last)
    for needs in WRONG_NEEDS:
        said.append(attempt(backward, grad, needs, *values))
    bias = DIFFERENTIABLE.index("bias")
    without = (*(call | {"bias": None}).values(), *last)
    said.append(attempt(backward, grad, [bias], *without))
    for other in (grad[:1], grad[..., :2], grad[0], grad.long()):
        said.append(attempt(backward, other, [0], *values))
    return said


def expected(target: str) -> list[str]:
    """The name that each answer has to hold."""
    twice = [name for name, _ in wrong(target) for _ in range(2)]
    return twice + ["needs"] * (len(WRONG_NEEDS) + 1) + ["grad"] * 4


@pytest.mark.parametrize("target", [slow(t) for t in ("cpp", "reference", "native")])
def test_wrong_calls_are_refused_by_name(target):
    if target != "reference" and (reasons := native.why_not("_cpp")):
        pytest.skip("; ".join(reasons))
    paths = (Path(rka_fast.__file__).parents[1], HERE.parents[1])  # and what tests share
    result = subprocess.run(
        [sys.executable, str(HERE), target], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    said = json.loads(result.stdout.splitlines()[-1])
    names = expected(target)
    assert len(said) == len(names)
    silent = [x for x in zip(names, said, strict=True) if not _names(*x)]
    assert not silent, silent[:20]


# Sizes are measured against these, so that the other one is told; dropout has two names.
PARTNERS = {
    "query": ("key", "location"),
    "value": ("grad",),
    "scale_query": ("scale_key", "covariance"),
    "shape_query": ("shape_key",),
    "features": ("gate",),
    "dropout": ("dropout_p",),
    "causal": ("is_causal",),
}


def _names(name: str, answer: str) -> bool:
    """A message of ours: it begins with the argument, by itself or as `kernelized_attention` calls
    it, in C++ behind the place of the check; devices are told by the dispatcher."""
    if name == META:
        return META in answer
    head, colon, _ = re.sub(r"^\S+, \S+:\d+, ", "", answer).partition(":")
    known = {x for n in (name, *PARTNERS.get(name, ())) for x in (n, CALLER.get(n, n))}
    return bool(colon) and not known.isdisjoint(re.findall(r"[\w.]+", head))


if __name__ == "__main__":
    print(json.dumps(answers(sys.argv[1])))

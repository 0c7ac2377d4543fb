"""The command finds wrong kernels, names the seed that shows them, and lets right ones pass."""

from contextlib import ExitStack
from unittest.mock import patch

import pytest
import torch
from support.cases import random_inputs
from support.slow import slow

from rka_fast import verify
from rka_fast.ops import backends
from rka_fast.ops.reference import Reference, attention, philox
from rka_fast.verification import bounds, fuzz, law


class Faulty(Reference):
    """The reference with a fault put in."""

    name = "faulty"

    def __init__(self, arguments=lambda a: a, **instead):
        self.arguments, self.instead = arguments, instead

    def forward(self, a):
        with self.fault():
            return super().forward(self.arguments(a))

    def backward(self, grad, needs, a):
        with self.fault():
            return super().backward(grad, needs, self.arguments(a))

    def fault(self):
        stack = ExitStack()
        for name, wrong in self.instead.items():
            module = philox if hasattr(philox, name) else attention
            stack.enter_context(patch.object(module, name, wrong(getattr(module, name))))
        return stack


def without_root(scores):
    return lambda query, key, *more: scores(query, key, *more) * query.shape[-1] ** 0.5


def edge_off_by_one(a):
    if not a.causal:
        return a
    seen = torch.ones(a.query.shape[2], a.key.shape[2], dtype=torch.bool).tril(a.row_offset + 1)
    mask = seen[None, None] if a.mask is None else a.mask & seen
    return a._replace(causal=False, mask=mask)


def shifted(normals):
    return lambda *arguments: normals(*arguments).roll(1, -1)


def no_jitter(a):
    return a._replace(jitter=1e-12)


def without_factor(scores_backward):
    def wrong(grad, query, key, *more):
        return tuple(x * query.shape[-1] ** 0.5 for x in scores_backward(grad, query, key, *more))

    return wrong


FAULTS = {
    "a dropped 1 / sqrt(d)": Faulty(scores=without_root),
    "a mask edge off by one": Faulty(edge_off_by_one),
    "noise shifted by a column": Faulty(normals=shifted),
    "no jitter": Faulty(no_jitter),
    "a gradient without its factor": Faulty(_scores_backward=without_factor),
    "dropped weights not scaled up": Faulty(lambda a: a._replace(dropout=a.dropout * 0.99)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_kernels_are_found(fault, monkeypatch, capsys):
    """Within 60 calls, and again from the seed that is named."""
    monkeypatch.setitem(backends.BACKENDS, "faulty", FAULTS[fault])
    found = (verify.fuzzed("faulty", [seed])[1] for seed in range(60))
    seed = next(failures[0].seed for failures in found if failures)
    assert verify.main(["--backend", "faulty", "--seed", str(seed), "--cases", "1", "--draws", "0"])
    assert f"FAILED seed {seed}: " in capsys.readouterr().out


def test_the_reference_and_the_backends_here_pass(backend_name, capsys):
    assert verify.main(["--backend", backend_name, "--cases", "20", "--draws", "2000"]) == 0
    output = capsys.readouterr().out
    assert "20 of 20 calls within their bounds, 0 statistics beyond theirs" in output
    assert "covariance.kernels.features" in output


@pytest.fixture(params=[slow("reference"), "cpp"])
def backend_name(request):
    if backends.BACKENDS[request.param].why_not(None):
        pytest.skip("not built")
    return request.param


def test_results_of_another_shape_or_none_are_no_agreement():
    inputs = random_inputs(n=4, cooccurrence=False)
    found = bounds.evaluate(inputs, "reference", mode="mean")
    assert all(x.ratio <= 1 for x in bounds.against(found, inputs, mode="mean").values())
    with pytest.raises(AssertionError, match=r"output: expected shape .*, got \(2, 2, 3, 4\)"):
        bounds.against({**found, "output": found["output"][:, :, :3]}, inputs, mode="mean")
    with pytest.raises(AssertionError, match="there is no gradient of shape.key"):
        bounds.against({n: x for n, x in found.items() if n != "shape.key"}, inputs, mode="mean")


def test_draws_of_another_law_are_found(monkeypatch):
    """T left out makes h too narrow, a third of the scale makes the logits so."""
    wrong = {
        "T": Faulty(skew_noise=lambda f: lambda *a: 0.0 * f(*a)),
        "E": Faulty(normals=lambda f: lambda *a: 0.9 * f(*a)),
    }
    for fault in wrong.values():
        monkeypatch.setitem(backends.BACKENDS, "faulty", fault)
        assert not all(f.kept for f in law.check("faulty", 0, 20_000))
    assert all(f.kept for f in law.check("reference", 0, 20_000))


def test_the_laws_are_skewed_enough_to_matter():
    for seed in (0, 1):
        x = law.inputs(seed, 1, torch.float64, "cpu")
        assert law.theory(x).delta.abs().max() > 0.3


def test_a_seed_is_a_call():
    """Whatever came before: the same tensors and options again."""
    first, again = fuzz.draw(7, "reference"), fuzz.draw(7, "reference")
    other = fuzz.draw(8, "reference")
    assert first.text == again.text != other.text
    assert torch.equal(first.inputs["value"], again.inputs["value"])
    assert first.options["seed"] == again.options["seed"]


def test_calls_are_of_every_kind():
    texts = [fuzz.draw(seed, "reference").text for seed in range(300)]
    for kind in (
        "float32", "float64", "bfloat16", "float16", "mode sample", "mode mean", "mode location",
        "items repeated", "items close", "items zero", "causal", "padding", "boolean", "dropout",
        "-1e+09", "-65504", "-inf", "draws 3", *(f"activation {f}" for f in attention._ACTIVATIONS),
    ):  # fmt: skip
        assert any(kind in text for text in texts), kind
    keys = [int(text.split("keys ")[1].split()[0]) for text in texts]
    assert min(keys) == 1 and max(keys) > 256


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--backend", "fortran"], "fortran"),
        (["--cases", "0"], "--cases: expected at least 1"),
        (["--draws", "1"], "--draws: expected 0 or at least 100"),
        (["--seed", str(2**63)], "--seed: expected at most"),
        (["--seed", "-1"], "--seed: expected"),
    ],
)
def test_bad_flags_are_named(flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        verify.main(flags)
    assert stop.value.code == 2 and message in capsys.readouterr().err

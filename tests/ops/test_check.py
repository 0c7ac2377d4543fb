"""Errors name the argument, what was expected and what was given."""

import pytest
import torch
from support import cases

from rka_fast import Location, available_backends, kernelized_attention
from rka_fast.ops import backends

X = cases.random_inputs(dtype=torch.float32)
K = X["covariance"].kernels


def covariance(**changes):
    return {"covariance": X["covariance"]._replace(**changes)}


def kernels(**changes):
    return covariance(kernels=K._replace(**changes))


def location(**changes):
    return {"location": X["location"]._replace(**changes)}


CASES = {
    "query rank": (location(query=torch.zeros(2, 6, 4)), ("location.query", "4 dim", "(2, 6, 4)")),
    "key heads": (location(key=torch.zeros(2, 3, 6, 4)), ("location.key", "(2, 2, 6, 4)")),
    "no tensor": (location(key=[1.0]), ("location.key", "tensor", "list")),
    "value": ({"value": torch.zeros(2, 2, 5, 4)}, ("value", "(2, 2, 6, value width)", "5")),
    "value dtype": ({"value": X["value"].double()}, ("value", "float32", "float64")),
    "no heads": (
        {"location": Location(*(torch.zeros(2, 0, 6, 4),) * 2), "value": torch.zeros(2, 0, 6, 4)},
        ("at least one head", "(2, 0, 6, 4)"),
    ),
    "no value": ({"value": torch.zeros(2, 2, 6, 0)}, ("value", "one channel", "(2, 2, 6, 0)")),
    "no shape": (
        {"shape": (torch.zeros(2, 2, 6, 0),) * 2}, ("shape.query", "one channel", "(2, 2, 6, 0)"),
    ),
    "no features": (kernels(features=torch.zeros(2, 6, 0), gate=None), ("features", "one channel")),
    "integers": (location(query=torch.zeros(2, 2, 6, 4).long()), ("location.query", "int64")),
    "device": ({"value": X["value"].to("meta")}, ("value", "cpu", "meta")),
    "bias": (location(bias=torch.zeros(2, 2, 5, 6)), ("location.bias", "(2, 2, 6, 6)")),
    "scale key": (covariance(key=torch.zeros(2, 2, 6, 3)), ("covariance.key", "(2, 2, 6, 4)")),
    "scale bias": (covariance(bias=torch.zeros(3)), ("covariance.bias", "(2,)", "(3,)")),
    "features": (kernels(features=torch.zeros(2, 5, 5)), ("features", "(2, 6,", "(2, 5, 5)")),
    "concentration": (kernels(concentration=torch.ones(3)), ("concentration", "(2,)", "(3,)")),
    "mixture": (kernels(mixture=torch.ones(2, 2)), ("mixture", "(2, 3)", "(2, 2)")),
    "gate": (kernels(gate=torch.ones(2, 4)), ("gate", "(2, 5)", "(2, 4)")),
    "counts": (kernels(cooccurrence=torch.ones(2, 6, 5)), ("cooccurrence", "(2, 6, 6)")),
    "counts dtype": (
        kernels(cooccurrence=torch.ones(2, 6, 6, dtype=torch.bool)), ("cooccurrence", "bool"),
    ),
    "shape key": ({"shape": (X["shape"].query, torch.zeros(2, 2, 5, 4))}, ("shape.key",)),
    "mask dtype": ({"mask": torch.zeros(6, 6)}, ("mask", "bool", "location.bias")),
    "mask shape": ({"mask": torch.ones(5, 6, dtype=torch.bool)}, ("mask", "(2, 2, 6, 6)")),
    "padding shape": (
        {"key_padding_mask": torch.ones(6, 2, dtype=torch.bool)}, ("key_padding_mask", "(2, 6)"),
    ),
    "padding dtype": ({"key_padding_mask": torch.zeros(2, 6)}, ("key_padding_mask", "bool")),
    "mode": ({"mode": "median"}, ("mode", "sample", "'median'")),
    "mode without": ({"covariance": None}, ("'sample'", "covariance", "mode='location'")),
    "activation": ({"activation": "gelu"}, ("activation", "leaky_relu", "'gelu'")),
    "dropout": ({"dropout_p": 1.0}, ("dropout_p", "1.0")),
    "jitter": ({"jitter": 0.0}, ("jitter", "0.0", "1e-4")),
    "seed dtype": ({"seed": torch.tensor(1.5)}, ("seed", "int64", "float32")),
    "seed kind": ({"seed": 1.5}, ("seed", "int", "float")),
    "seed kind unused": ({"seed": 1.5, "mode": "location"}, ("seed", "float")),
    "seed size": ({"seed": torch.tensor([1, 2])}, ("seed", "(2,)")),
    "seed device": (
        {"seed": torch.zeros(1, dtype=torch.int64, device="meta"), "draws": 2},
        ("seed: expected device cpu like location.query, got meta",),
    ),
    "backend": ({"backend": "cobol"}, ("backend", "reference", "'cobol'")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_message(case):
    changes, expected = CASES[case]
    if "shape" in changes:
        changes = {"shape": type(X["shape"])(*changes["shape"])}
    with pytest.raises((ValueError, TypeError)) as error:
        kernelized_attention(**{**X, "seed": 1, **changes})
    for part in expected:
        assert part in str(error.value)


def test_causal_needs_as_many_queries_as_keys():
    x = cases.random_inputs(n=3, keys=5, cooccurrence=False)
    with pytest.raises(ValueError, match="is_causal.*3 and 5"):
        kernelized_attention(**x, is_causal=True, seed=1)


def test_cross_attention_refuses_cooccurrence():
    x = cases.random_inputs(n=3, keys=5)
    with pytest.raises(ValueError, match="cooccurrence.*3 queries and 5 keys"):
        kernelized_attention(**x, seed=1)


class Unable:
    name = "unable"

    def why_not(self, a):
        return ["no such device", "the moon is in the wrong house"]


def test_every_reason_is_told(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "unable", Unable())
    assert "unable" not in available_backends()
    with pytest.raises(ValueError, match="'unable'.*no such device; the moon.*backend='auto'"):
        kernelized_attention(**X, seed=1, backend="unable")


def test_the_environment_replaces_auto(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "unable", Unable())
    monkeypatch.setenv("RKA_FAST_BACKEND", "unable")
    with pytest.raises(ValueError, match="the moon"):
        kernelized_attention(**X, seed=1)
    kernelized_attention(**X, seed=1, backend="reference")

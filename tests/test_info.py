"""The command tells versions and reasons."""

import json

import torch

from rka_fast import info
from rka_fast.ops import backends
from rka_fast.version import __version__


class Unable:
    name = "unable"

    def why_not(self, a):
        return ["no such device", "no compiler"]


def test_it_lists_every_backend_and_why(monkeypatch):
    monkeypatch.setitem(backends.BACKENDS, "unable", Unable())
    text = "\n".join(info.lines())
    assert torch.__version__ in text
    assert "unable      not available: no such device; no compiler" in text
    assert "reference   available" in text


def test_json_has_the_same_facts(monkeypatch, capsys):
    monkeypatch.setitem(backends.BACKENDS, "unable", Unable())
    assert info.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__ and found["rka_fast"] == __version__
    assert list(found["backends"]) == list(backends.BACKENDS)
    assert found["backends"]["unable"] == ["no such device", "no compiler"]
    assert found["backends"]["reference"] == []

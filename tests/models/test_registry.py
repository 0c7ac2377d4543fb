"""Every model there is through the commands: train, stop and resume, recommend."""

import dataclasses
import json

import pytest
from support.runs import SMALL, run_command, train, write_log

from rka_fast.models import MODELS
from rka_fast.recommend import Recommendations
from rka_fast.train import main
from rka_fast.training.config import DEFAULTS, Config
from rka_fast.training.metrics import METRICS


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log") / "log.txt")


def results(folder):
    """result.json without what may differ between equal runs."""
    result = json.loads((folder / "result.json").read_text())
    del result["seconds"], result["config"]
    return result


@pytest.mark.parametrize("name", MODELS)
def test_resumed_equals_uninterrupted_and_recommends(name, log, tmp_path):
    flags = ("--model", name, "--patience", "9")
    assert train(log, tmp_path / "whole", *flags, "--epochs", "2") == 0
    whole = results(tmp_path / "whole")
    assert whole["model"] == name
    for kind in ("sampled", "full"):
        assert set(whole["test"][kind]) == set(METRICS)
        assert 0 <= whole["test"][kind]["ndcg@10"] <= 1
    if MODELS[name].trains:
        assert train(log, tmp_path / "parts", *flags, "--epochs", "1") == 0
        assert main(["--resume", str(tmp_path / "parts"), "--epochs", "2"]) == 0
        logs = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "parts")]
        assert logs[0] == logs[1]
        assert results(tmp_path / "parts") == whole
    else:
        assert main(["--resume", str(tmp_path / "whole")]) == 0
        assert results(tmp_path / "whole") == whole
    loaded = Recommendations(str(tmp_path / "whole"))
    for found in (loaded.for_user("u7", 4), loaded.for_history(["i3", "i5"], 4)):
        scores = [score for _, score in found]
        assert len(found) == 4 and scores == sorted(scores, reverse=True)


def test_as_a_module(log, tmp_path):
    flags = ["--data", log, *SMALL, "--model", "narm", "--epochs", "1"]
    done = run_command("rka_fast.train", "--out", tmp_path / "run", *flags)
    assert done.returncode == 0, done.stderr
    assert any(line.split()[2:3] == ["narm"] for line in done.stdout.splitlines())
    assert results(tmp_path / "run")["model"] == "narm"


@pytest.mark.parametrize("name", MODELS)
def test_every_default_of_a_model_is_a_setting(name):
    model = MODELS[name]
    assert set(model.defaults) <= set(DEFAULTS)
    config = dataclasses.asdict(Config(model=name, data="x"))
    assert {key: config[key] for key in DEFAULTS} == {**DEFAULTS, **model.defaults}
    assert config["loss"] == (model.losses[0] if model.losses else None)

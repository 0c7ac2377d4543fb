"""Every model there is through the commands: train, stop and resume, recommend."""

import dataclasses
import json

import pytest
from support.runs import run_command, small, train
from support.slow import slow

from rka_fast.models import MODELS
from rka_fast.run import Run
from rka_fast.train import main
from rka_fast.training.config import TRAINING, Config
from rka_fast.training.metrics import METRICS


def results(folder):
    """result.json without what may differ between equal runs."""
    result = json.loads((folder / "result.json").read_text())
    del result["seconds"], result["config"]
    return result


QUICK = ("pop", "gru4rec", "rksa")  # the others go on in the same way


@pytest.mark.parametrize("name", [n if n in QUICK else slow(n) for n in MODELS])
def test_resumed_equals_uninterrupted_and_recommends(name, log, tmp_path):
    flags, trains = ("--model", name), MODELS[name].trains
    flags += ("--patience", "9") if trains else ()
    assert train(log, tmp_path / "whole", *flags, *(("--epochs", "2") if trains else ())) == 0
    whole = results(tmp_path / "whole")
    assert whole["model"] == name
    for kind in ("sampled", "full"):
        assert set(whole["test"][kind]) == set(METRICS)
        assert 0 <= whole["test"][kind]["ndcg@10"] <= 1
    if trains:
        assert train(log, tmp_path / "parts", *flags, "--epochs", "1") == 0
        assert main(["--resume", str(tmp_path / "parts"), "--epochs", "2"]) == 0
        logs = [(tmp_path / run / "metrics.jsonl").read_text() for run in ("whole", "parts")]
        assert logs[0] == logs[1]
        assert results(tmp_path / "parts") == whole
    else:
        assert main(["--resume", str(tmp_path / "whole")]) == 0
        assert results(tmp_path / "whole") == whole
    loaded = Run(str(tmp_path / "whole"))
    for found in (loaded.recommend("u7", 4), loaded.recommend([["i3", "i5"]], 4)):
        scores = found["score"].to_list()
        assert len(found) == 4 and scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_as_a_module(log, tmp_path):
    flags = ["--data", log, *small("narm"), "--model", "narm", "--epochs", "1"]
    done = run_command("rka_fast.train", "--out", tmp_path / "run", *flags)
    assert done.returncode == 0, done.stderr
    assert any(line.split()[2:3] == ["narm"] for line in done.stdout.splitlines())
    assert results(tmp_path / "run")["model"] == "narm"


@pytest.mark.parametrize("name", MODELS)
def test_every_default_of_a_model_is_a_setting(name):
    model = MODELS[name]
    assert set(model.defaults) <= set(TRAINING)
    config = dataclasses.asdict(Config(model=name, data="x"))
    expected = {**TRAINING, **model.defaults} if model.trains else dict.fromkeys(TRAINING)
    expected |= {key: value for key, value in model.settings().items() if key in config}
    assert {key: config[key] for key in expected} == expected
    assert config["loss"] == (model.losses[0] if model.losses else None)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_can_be_made_by_its_settings(name, split):
    """The sizes are the catalogue's, the settings those of the config, whatever the model."""
    model = MODELS[name]
    config = Config(model=name, **{"width": 6} if "width" in model.settings() else {})
    made = model.from_config(config, split)
    widths = {x.shape[-1] for x in made.state_dict().values() if x.dim() == 2}
    assert 6 in widths or "width" not in model.settings()
    assert model.title and model.title != getattr(model.__base__, "title", "")

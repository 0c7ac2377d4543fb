import json

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from rka_fast.errors import ConfigError
from rka_fast.models import MODELS
from rka_fast.training.config import Config
from rka_fast.tuning.space import asked, default_space, holds, make_space


def test_the_default_space_leaves_out_what_was_given():
    space = default_space(Config(data="x", model="rksa"))
    assert space == {
        "learning_rate": FloatDistribution(1e-3 / 3, 3e-3, log=True),
        "width": CategoricalDistribution([32, 50, 64, 128]),
        "blocks": IntDistribution(1, 3),
        "dropout": FloatDistribution(0.0, 0.6),
        "kernel_weight": FloatDistribution(0.1, 4.0, log=True),
    }
    given = default_space(Config(data="x", model="sasrec", dropout=0.4, heads=4, width=64))
    assert set(given) == {"learning_rate", "blocks"}


def test_every_model_has_a_space_of_settings_that_it_reads_or_says_so():
    for name in MODELS:
        config = Config(data="x", model=name)
        space = default_space(config)
        assert space.keys() <= Config.read_by(name).keys()
        assert holds(space, {setting: getattr(config, setting) for setting in space})
    with pytest.raises(ConfigError, match="model 'pop' has nothing left to search.*--search"):
        make_space(Config(model="pop"), {})


def test_texts_and_files(tmp_path):
    file = tmp_path / "space.json"
    file.write_text(
        json.dumps({"width": {"low": 16, "high": 64, "step": 16}, "tied": [True, False]})
    )
    texts = [
        "learning-rate=1e-4..1e-2:log",
        "loss=ce,sampled_ce",
        "warm_up=none,100",
        "dropout=0..1e-1",
    ]
    assert make_space(Config(model="sasrec"), asked(str(file), texts)) == {
        "width": IntDistribution(16, 64, step=16),
        "tied": CategoricalDistribution([True, False]),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "loss": CategoricalDistribution(["ce", "sampled_ce"]),
        "warm_up": CategoricalDistribution([None, 100]),
        "dropout": FloatDistribution(0.0, 0.1),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("width", "--search width: expected NAME=A,B,C or NAME=LOW..HIGH"),
        ("widht=8", "unknown setting 'widht'; did you mean 'width'"),
        ("kernel_weight=1,2", "search of kernel_weight: not used by model 'sasrec'"),
        ("seed=1,2", "search of seed: this is the same in every trial; .*--seed"),
        ("data=a,b", "search of data: this is the same in every trial"),
        ("width=8,x", "search of width: expected a whole number, got 'x'"),
        ("dropout=.1..1", "search of dropout must be from 0 to below 1, got 1.0"),
        ("loss=ce,hinges", "search of loss must be one of"),
        ("dropout=.5..0.1", "search of dropout: .*low"),
        ("dropout=0..0.5:log", "search of dropout: .*low"),
        ("dropout=0..0.5:ln", "expected LOW..HIGH or LOW..HIGH:log"),
        ("tied=true..false", "search of tied: this is no number; list its values"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched(text, message):
    with pytest.raises(ConfigError, match=message):
        make_space(Config(model="sasrec"), asked(None, [text]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "expected one JSON object, from settings to .*got list"),
        ("{", "is not valid JSON"),
        ('{"width": 8}', "search of width: expected .*got 8"),
        ('{"width": {"low": 8}}', "search of width: expected"),
        ('{"width": {"low": 8, "high": 9, "logs": true}}', "unknown 'logs'"),
        ('{"width": []}', "search of width: expected"),
        ('{"width": [8.5]}', "search of width must be int or null, got 8.5"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path, content, message):
    file = tmp_path / "space.json"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        make_space(Config(model="sasrec"), asked(str(file), []))
    with pytest.raises(ConfigError, match="cannot read search space .*none.json: No such file"):
        make_space(Config(model="sasrec"), asked(str(tmp_path / "none.json"), []))

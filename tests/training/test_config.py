import dataclasses
import json
from pathlib import Path

import pytest

from rka_fast.errors import ConfigError
from rka_fast.models.losses import LOSSES
from rka_fast.training.config import FORMAT, RESUMABLE, Config
from rka_fast.training.flags import parse
from rka_fast.training.presets import presets


def test_json_round_trip():
    config = Config(model="sasrec", negatives=None, min_rating=4.0, json="x.json", dropout=0.0)
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_every_setting_is_a_flag_and_a_key_of_the_file(tmp_path):
    values = {
        "data": "a.csv",
        "columns": "u,i",
        "form": "table",
        "time_format": "%Y/%m/%d",
        "where": "kind=view",
        "max_missing": 0.25,
        "max_unpacked": 3.5,
        "min_rating": 3.5,
        "min_user_events": 2,
        "min_item_events": 3,
        "core": "iterated",
        "duplicates": "keep",
        "ties": "shuffle",
        "repeats": "drop",
        "split": "time",
        "model": "rksa",
        "max_length": 7,
        "item_features": "features.csv",
        "width": 6,
        "blocks": 3,
        "heads": 2,
        "dropout": 0.25,
        "block": "ligr",
        "expansion": 2,
        "temperature": 0.5,
        "tied": False,
        "time_bias": True,
        "position_bias": True,
        "activation": "tanh",
        "loss": "sampled_ce",
        "negatives": 4,
        "shared_negatives": "sequence",
        "log_q": True,
        "kernel_weight": 0.125,
        "kernels": "item,user",
        "initial_scale": 0.75,
        "leave_self_out": False,
        "train_mode": "mean",
        "eval_mode": "sample",
        "batch_size": 9,
        "learning_rate": 0.5,
        "weight_decay": 0.25,
        "warm_up": 15,
        "decay": "cosine",
        "average_weights": 0.75,
        "gradient_clip": 1.5,
        "epochs": 11,
        "eval_every": 2,
        "select": "full",
        "patience": 12,
        "seed": 13,
        "out": "o",
        "json": "j",
        "track": "wandb",
        "device": "cpu",
        "precision": "bf16",
        "backend": "reference",
        "save_every": 14,
        "split_boundaries": "0.5,0.6",
        "split_targets": "last",
        "max_counted": 15,
        "counting": "index",
        "stream": True,
        "force": True,
        "eval_users": 16,
        "seen": "keep",
    }
    # of another split, of another loss, of another run, of another optimiser
    others = {"valid", "test", "calibration", "from_run", "sparse_adam"}
    assert set(values) | others == {field.name for field in dataclasses.fields(Config)}
    flags = []
    for name, value in values.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += ["--" + flag, str(value)]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values))
    assert parse(flags).config == parse(["--config", str(file)]).config == Config(**values)


def test_flags_override_the_file(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"width": 6, "epochs": 3}')
    config = parse(["--config", str(file), "--epochs", "4"]).config
    assert (config.width, config.epochs, config.blocks) == (6, 4, Config().blocks)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning-rat", "1"], "unknown flag --learning-rat; did you mean --learning-rate?"),
        (["--lr", "0.1"], "unknown flag --lr; did you mean --learning-rate?"),
        (["--maxlen=4"], "unknown flag --maxlen=4; did you mean --max-length?"),
        (["log.csv"], "unexpected 'log.csv'; did you mean --data log.csv?"),
        (["--model", "SASRec"], "got 'SASRec'; did you mean 'sasrec'?"),
        (["--model", "Item-KNN"], "did you mean 'item_knn'?"),
        (["--model", "pop", "--lr", "1"], "unknown flag --lr; --help tells them all"),
    ],
)
def test_words_that_are_not_known_name_what_was_meant(words, message):
    with pytest.raises(ConfigError) as error:
        parse(words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"widht": 6}', "unknown setting 'widht'; did you mean 'width'"),
        ('{"learning-rate": 6}', "did you mean 'learning_rate'"),
        ('{"zzz": 6}', "known are data, columns"),
        ('{"width": "6"}', "width must be int or null, got '6'"),
        ('{"width": true}', "width must be int or null, got True"),
        ('{"seed": null}', "seed must be int, got None"),
        ('{"loss": "hing"}', f"{', '.join(LOSSES)}, got 'hing'; did you mean"),
        ('{"negatives": 1.5}', "negatives must be int or null, got 1.5"),
        ('{"leave_self_out": 1}', "leave_self_out must be bool or null, got 1"),
        ("[1]", "expected one JSON object"),
        ("{", "not valid JSON"),
    ],
)
def test_a_wrong_file(tmp_path, text, message):
    file = tmp_path / "c.json"
    file.write_text(text)
    with pytest.raises(ConfigError, match="c.json") as error:
        Config.read(file)
    assert message in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="cannot read config file .*nowhere.json"):
        parse(["--config", str(tmp_path / "nowhere.json")])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": "rska"}, "did you mean 'rksa'"),
        ({"dropout": 1.0}, "dropout must be from 0 to below 1, got 1.0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"save_every": 0}, "save_every must be at least 1"),
        ({"width": 50, "heads": 3}, "width must be a multiple of heads (3), got 50"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0, got nan"),
        ({"initial_scale": 0.0}, "initial_scale must be above 0, got 0.0"),
        ({"kernels": "user"}, "kernels must name cooccurrence or item or both, and may name"),
        ({"kernels": "item,users"}, "comma-separated, got 'item,users'"),
        ({"kernel_weight": -1.0}, "kernel_weight must not be negative"),
        ({"device": "gpu"}, "device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'"),
        ({"columns": "user"}, "columns 'user' must be at least 2 names"),
        ({"negatives": 5}, "negatives has no meaning with loss 'ce'"),
        (
            {"loss": "bce", "model": "attrec"},
            "cannot be used by model 'attrec'; choose hinge",
        ),
        ({"loss": "hinge"}, "cannot be used by model 'rksa'; choose ce or bce or gbce or sam"),
        ({"loss": "ce", "model": "pop"}, "loss is not used by model 'pop'; leave it out"),
        ({"negatives": 2, "model": "bpr_mf"}, "negatives is not used by model 'bpr_mf'; leave it"),
        (
            {"kernel_weight": 2.0, "model": "gru4rec"},
            "kernel_weight is not used by model 'gru",
        ),
        ({"leave_self_out": True, "model": "sasrec"}, "leave_self_out is not used by model"),
        (
            {"epochs": 3, "model": "item_knn"},
            "epochs is not used by model 'item_knn'",
        ),
        ({"seed": -1}, "seed must be from 0"),
        ({"max_length": 1}, "max_length must be at least 2"),
    ],
)
def test_a_value_out_of_range(values, message):
    with pytest.raises(ConfigError) as error:
        Config(**values)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "ce", "shared_negatives": "batch"}, "'bce' or 'gbce' or 'sampled_ce'"),
        ({"loss": "bce", "calibration": 0.5}, "calibration has no meaning with loss 'bce'"),
        ({"loss": "gbce", "log_q": True}, "log_q has no meaning with loss 'gbce'"),
        ({"loss": "gbce", "calibration": 1.5}, "calibration must be from 0 to 1, got 1.5"),
        ({"model": "attrec", "shared_negatives": "batch"}, "not used by model 'attrec'"),
    ],
)
def test_what_a_loss_does_not_read_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        Config(**values)


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_settings_with_their_source(name):
    """Every one of them stands as it is written, and flags come before it."""
    settings = presets()[name].settings
    assert presets()[name].source
    assert parse(["--preset", name]).config == Config(**settings)
    given = parse(["--preset", name, "--width", "24", "--data", "a.csv", "--epochs", "4"]).config
    assert given == Config(**{**settings, "width": 24, "data": "a.csv", "epochs": 4})


def test_a_preset_that_cannot_be_used(tmp_path):
    with pytest.raises(ConfigError, match=r"must be one of rksa, rksa\+, sasrec, .* got 'sasrec2'"):
        parse(["--preset", "sasrec2"])
    with pytest.raises(ConfigError, match="exclude each other"):
        parse(["--preset", "rksa", "--config", "c.json"])
    with pytest.raises(ConfigError, match="preset gsasrec: .*not used by model 'gru4rec'"):
        parse(["--preset", "gsasrec", "--model", "gru4rec"])


def test_whole_numbers_are_numbers():
    assert Config(learning_rate=1, dropout=0).learning_rate == 1


def test_defaults_that_depend_on_other_settings():
    assert Config(data="/x/ml-1m.txt.gz", seed=3).run_dir == Path("runs/ml-1m-rksa-seed3")
    assert Config(data="a.csv,b.csv", model="pop").run_dir == Path("runs/a-pop-seed0")
    assert Config(out="here").run_dir == Path("here")
    assert [Config(loss=loss).negatives_per_position for loss in ("ce", "bce", "sampled_ce")] == [
        0,
        1,
        128,
    ]
    assert Config(loss="bce", negatives=7).negatives_per_position == 7


def test_the_model_sets_defaults():
    config = Config(model="narm", data="x")
    assert (config.width, config.dropout, config.epochs, config.loss) == (100, 0.5, 200, "ce")
    assert Config(model="narm", width=8, dropout=0.0).width == 8
    assert Config(model="narm", width=8, dropout=0.0).dropout == 0.0
    assert (Config(model="narm").epochs, Config(model="bpr_mf").epochs) == (24, 10)  # synthetic
    rates = [Config(model=model).learning_rate for model in ("rksa", "hcrnn", "bpr_mf")]
    assert rates == [3e-3, 2e-3, 1e-2] and Config(data="x").learning_rate == 1e-3
    attrec = Config(model="attrec")
    assert (attrec.loss, attrec.negatives_per_position) == ("hinge", 1)
    assert Config(model="item_knn").loss is None
    assert Config(model="item_knn").negatives_per_position == 0
    assert config.to_json()["width"] == 100
    assert Config.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_defaults_follow_the_model_and_the_data_wherever_these_are_given(tmp_path):
    def values(config):
        return config.width, config.epochs, config.loss

    narm, attrec = (100, 200, "ce"), (150, 200, "hinge")
    assert values(parse(["--model", "narm", "--data", "x"]).config) == narm
    assert values(parse(["--data=x", "--model=attrec"]).config) == attrec
    assert values(parse(["--model", "narm"]).config) == (100, 24, "ce")
    assert parse(["--data", "x"]).config.epochs == 200 and parse([]).config.epochs == 24
    file = tmp_path / "config.json"
    file.write_text('{"model": "narm", "patience": 3}')
    assert values(parse(["--config", str(file), "--data", "x"]).config) == narm
    other = parse(["--config", str(file), "--data", "x", "--model", "attrec"]).config
    assert values(other) == attrec and other.patience == 3
    file.write_text('{"data": "x", "epochs": 7}')
    assert values(parse(["--config", str(file), "--model", "narm"]).config) == (100, 7, "ce")
    flags = ["--config", str(file), "--model", "narm", "--epochs", "9", "--width", "8"]
    assert values(parse(flags).config) == (8, 9, "ce")


@pytest.mark.parametrize("epochs", ["many", "2.5", "²"])
def test_epochs_that_are_no_number_are_refused_like_other_flags(capsys, epochs):
    with pytest.raises(SystemExit) as status:
        parse(["--epochs", epochs])
    assert status.value.code == 2 and "epochs" in capsys.readouterr().err


def test_the_help_shows_the_defaults_of_the_model(capsys):
    shown = []
    for flags in ([], ["--model", "attrec"]):
        with pytest.raises(SystemExit):
            parse([*flags, "--help"])
        text = capsys.readouterr().out
        shown.append(text[text.index("--width") :].split("(default: ")[1].split(")")[0])
    assert shown == ["50", "150"]


def test_resuming_may_change_only_what_does_not_shape_the_result():
    Config(epochs=9, json="x").check_resume(Config())
    with pytest.raises(ConfigError, match="width cannot change on --resume: the run has 50, given"):
        Config(width=6).check_resume(Config())
    assert set(RESUMABLE) <= {field.name for field in dataclasses.fields(Config)}


@pytest.mark.parametrize("flag", ["--kernel-weight=2", "--kernels item", "--no-leave-self-out"])
def test_a_flag_that_the_model_does_not_read_is_refused(flag):
    flag = flag.split()
    parse(flag)
    with pytest.raises(ConfigError) as error:
        parse(["--model", "gru4rec", *flag])
    assert f"{flag[0].split('=')[0]} is not used by model 'gru4rec'; leave it out" in str(
        error.value
    )


def test_a_run_is_a_template_for_another_model(tmp_path):
    """What the other model does not read is left out and told; what was written by hand is not."""
    file = tmp_path / "config.json"
    saved = Config(data="x", width=8, kernel_weight=2.0, loss="bce", negatives=3, epochs=7)
    file.write_text(json.dumps(saved.to_json()))
    given = parse(["--config", str(file), "--model", "sasrec"])
    assert given.config == Config(
        data="x", model="sasrec", width=8, loss="bce", negatives=3, epochs=7
    )
    (note,) = given.notes
    assert note.startswith(f"{file}: not used by sasrec: ")
    assert set(note.split(": ")[2].split(", ")) == Config.unread("sasrec")
    attrec = parse(["--config", str(file), "--model", "attrec"])
    assert (attrec.config.loss, attrec.config.negatives_per_position) == ("hinge", 1)
    assert "loss" in attrec.notes[0] and "negatives" in attrec.notes[0]
    assert parse(["--config", str(file)]) == (saved, None, [], True)
    file.write_text('{"model": "rksa", "kernel_weight": 2}')
    with pytest.raises(ConfigError, match="config.json: kernel_weight is not used by model 'sasr"):
        parse(["--config", str(file), "--model", "sasrec"])


def test_formats_of_saved_settings(tmp_path):
    """Format 1 named the kernels otherwise and saved what the model ignored, as if it were set."""
    file = tmp_path / "config.json"
    first = {
        "data": "x", "model": "gru4rec", "kernel_weight": 2.0, "relations": "item", "width": 8,
        "leave_self_out": True, "blocks": 4, "out": None, "save_every": None,
    }  # fmt: skip
    file.write_text(json.dumps(first))
    assert parse(["--config", str(file)]).config == Config(data="x", model="gru4rec", width=8)
    file.write_text(json.dumps({**first, "model": "rksa"}))
    rksa = parse(["--config", str(file)]).config
    assert (rksa.kernels, rksa.kernel_weight, rksa.blocks) == ("item", 2.0, 4)
    assert rksa.to_json()["format"] == FORMAT
    file.write_text(json.dumps({**rksa.to_json(), "format": FORMAT + 1}))
    with pytest.raises(ConfigError, match=f"format {FORMAT + 1} is not known.*install a newer one"):
        parse(["--config", str(file)])


def test_what_two_configs_differ_in():
    config = Config(width=6, epochs=3, out="a")
    assert config.difference(config) == {}
    found = config.difference(Config(epochs=4, out="b"), ignoring=("out",))
    assert found == {"width": (6, 50), "epochs": (3, 4)}

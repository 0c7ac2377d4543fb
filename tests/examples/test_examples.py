"""Each example runs, small, and says what it promises."""

import importlib.util
import math
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
from support.runs import write_log

import rka_fast

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert {path.stem for path in EXAMPLES.glob("*.py")} <= tested


@pytest.mark.slow
def test_digits():
    pytest.importorskip("sklearn")
    text = load("digits").main(["--seeds", "1", "--epochs", "6", "--members", "2", "--draws", "4"])
    rows = [[x.strip() for x in line.split("|")[1:-1]] for line in text.splitlines()]
    assert rows[0][1:] == ["accuracy", "NLL", "ECE", "shift by entropy", "shift by spread"]
    assert len(rows) == 2 + 5
    for name, accuracy, nll, *_ in rows[2:]:
        assert float(accuracy) > 0.3, name  # guessing has a tenth right, and an NLL of log 10
        assert float(nll) < 0.9 * math.log(10), name


@pytest.mark.slow
def test_language_model():
    bits = load("language_model").main(["--steps", "60"])
    # A character drawn by its frequency alone costs more than 4.4 bits in English prose.
    assert all(2.0 < x < 4.4 for x in bits.values())


@pytest.mark.slow
def test_huggingface():
    pytest.importorskip("transformers")
    result = load("huggingface").main(["--steps", "60"])
    assert result["loss"] < 0.75 * math.log(32)  # what guessing costs
    assert result["right"] > 0.15 and 0 < result["spread"] < 0.5


def test_train_from_python(tmp_path, capsys):
    log = write_log(tmp_path / "log.txt")
    run = load("train_from_python").main(str(log), str(tmp_path / "run"))
    printed = capsys.readouterr().out
    user = run.sequences.user_ids[0]
    had = set(run.sequences.sequence(run.sequences.user_index(user)).tolist())
    found = run.recommend(user, top=5).select("item", "score").rows()
    assert len(found) == 5
    assert not {run.sequences.item_ids.index(item) + 1 for item, _ in found} & had
    for item, score in found:
        assert f"  {item:<12}{score:8.3f}" in printed
    assert f"'ndcg@10': {round(run.evaluate('test')['full']['ndcg@10'], 4)}" in printed
    assert (tmp_path / "run" / "result.json").is_file()


@pytest.mark.slow
def test_serve_a_run(tmp_path, capfd):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    log = write_log(tmp_path / "log.txt")
    answer = load("serve_a_run").main(str(log), str(tmp_path / "served"))
    assert answer["by"] == "rksa" and answer["unknown"] == []
    second = rka_fast.Run.load(tmp_path / "served" / "tuesday")
    expected = second.recommend([second.sequences.item_ids[:3]], top=3)
    assert [of["item"] for of in answer["items"]] == expected["item"].to_list()
    printed = capfd.readouterr().out
    assert "'unknown': ['no such item']" in printed and "'by': 'cosine'" in printed


def test_recommend_everybody(tmp_path, capsys):
    with (
        pytest.warns(UserWarning, match="1 history has no known item"),
        pytest.warns(UserWarning, match="left out 8 events with unknown items"),
    ):
        run = load("recommend_everybody").main(str(tmp_path / "run"))
    printed = capsys.readouterr().out
    lists = pl.read_parquet(tmp_path / "run" / "lists.parquet")
    assert lists["user"].unique().sort().to_list() == sorted(run.sequences.user_ids)
    assert (lists["title"] == "Film " + lists["item"].str.slice(1)).all()
    assert f"{run.sequences.num_users} people have lists" in printed
    assert "popularity" in printed and "later events, full ranking: NDCG@10 0." in printed

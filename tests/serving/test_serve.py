"""The server: what it answers, refuses and counts, and how another run takes its place."""

import json
import shutil
import socket
import sys

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")
pytest.importorskip("httpx")
from fastapi.testclient import TestClient
from support.runs import train, write_log
from support.serving import small_run
from support.slow import slow

from rka_fast import exporting
from rka_fast.commands import main
from rka_fast.errors import ConfigError, FolderError
from rka_fast.serving import serve
from rka_fast.serving.app import make_app
from rka_fast.serving.engine import load
from rka_fast.serving.limits import Limits
from rka_fast.serving.serve import listen

JSON = {"Content-Type": "application/json"}
TOKEN = {"Authorization": "Bearer sécret".encode()}


@pytest.fixture(scope="module", params=["rksa", "pop", slow("export")])
def served(request, small_runs, exports):
    """A run, and a client of a server that answers from it or from its export."""
    run = small_runs("sasrec" if request.param == "export" else request.param)
    path = exports("sasrec") if request.param == "export" else run.folder
    with TestClient(make_app(lambda: load(path), Limits())) as client:
        yield run, client, request.param == "export"


def ask(client, **wanted) -> dict:
    answer = client.post("/recommend", json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


def same(found: dict, table) -> None:
    """The rows of the table of `Run.recommend`; of equal scores another may stand there."""
    assert [of["score"] for of in found["items"]] == pytest.approx(
        table["score"].to_list(), abs=1e-5
    )
    near = np.abs(np.subtract.outer(table["score"].to_numpy(), table["score"].to_numpy())) < 1e-5
    for of, expected, close in zip(found["items"], table["item"], near.sum(1), strict=True):
        assert of["item"] == expected or close > 1


def test_recommends_what_the_run_recommends(served):
    run, client, _ = served
    for history in (["i3"], ["i3", "i5", "i3", "i8"], [f"i{n}" for n in range(40)]):
        same(ask(client, history=history), run.recommend([history]))
    found = ask(client, history=["i3", "i5"], top=3)
    assert found["by"] == run.config.model and found["unknown"] == []
    same(found, run.recommend([["i3", "i5"]], top=3))
    everything = ask(client, history=["i3", "i5"], top=1000)["items"]
    assert {of["item"] for of in everything} == set(run.sequences.item_ids) - {"i3", "i5"}


def test_what_is_shown(served):
    run, client, _ = served
    history = ["i3", "i5"]
    kept = ask(client, history=history, seen="keep", top=5)
    same(kept, run.recommend([history], seen="keep", top=5))
    best = [of["item"] for of in ask(client, history=history, top=4)["items"]]
    found = ask(client, history=history, exclude=[*best[:2], "no such"], top=5)
    same(found, run.recommend([history], exclude=best[:2], top=5))
    assert found["unknown"] == ["no such"]


def test_users_of_the_data(served):
    run, client, exported = served
    answer = client.post("/recommend", json={"user": "u7"})
    if exported:
        assert answer.status_code == 404 and "give the history" in answer.json()["detail"]
    else:
        same(answer.json(), run.recommend("u7"))
    unknown = client.post("/recommend", json={"user": "nobody"})
    assert unknown.status_code == 404
    assert exported or "'nobody'" in unknown.json()["detail"]


def test_unknown_items_are_named_and_popularity_stands_in(served):
    run, client, _ = served
    found = ask(client, history=["x", "i3", "y", "x"])
    assert found["unknown"] == ["x", "y"] and found["by"] == run.config.model
    same(found, run.recommend([["i3"]]))
    for history in ([], ["x"]):
        found = ask(client, history=history, top=5, exclude=["i3"])
        assert found["by"] == "popularity"
        table = run.recommend([[]], top=5, exclude=["i3"])
        assert [of["score"] for of in found["items"]] == table["score"].to_list()
        assert "i3" not in [of["item"] for of in found["items"]]


def test_similar_items(served):
    run, client, _ = served
    answer = client.get("/similar", params={"item": "i3", "top": 4})
    if not run.model.has_vectors:
        assert answer.status_code == 404 and "no item vectors" in answer.json()["detail"]
        return
    vectors = run.model.item_vectors()[1:].detach().double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    item = run.sequences.item_ids.index("i3")
    cosine = vectors @ vectors[item]
    order = [n for n in np.argsort(-cosine) if n != item]
    found = answer.json()["items"]
    assert [of["item"] for of in found] == [run.sequences.item_ids[n] for n in order[:4]]
    np.testing.assert_allclose([of["score"] for of in found], cosine[order[:4]], atol=1e-6)
    everything = client.get("/similar", params={"item": "i3", "top": 1000}).json()["items"]
    assert len(everything) == run.sequences.num_items - 1
    unknown = client.get("/similar", params={"item": "x"})
    assert unknown.status_code == 404 and unknown.json()["detail"] == "unknown item 'x'"


def test_health_metrics_and_openapi(served):
    run, client, _ = served
    health = client.get("/health").json()
    assert health == {"status": "ok", "model": run.config.model, "items": run.sequences.num_items}

    def counted() -> dict[str, float]:
        lines = [line for line in client.get("/metrics").text.splitlines() if line[0] != "#"]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    before = counted()
    ask(client, history=["i3", "who", "what"])
    assert client.get("/nowhere").status_code == 404
    after = counted()

    def rise(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert rise('rka_fast_requests_total{path="/recommend",status="200"}') == 1
    assert rise('rka_fast_requests_total{path="other",status="404"}') == 1
    assert rise('rka_fast_request_seconds_count{path="/recommend"}') == 1
    assert rise("rka_fast_unknown_items_total") == 2
    assert rise("rka_fast_batch_size_sum") == 1
    assert after["rka_fast_items"] == run.sequences.num_items
    page = client.get("/openapi.json").json()
    assert set(page["paths"]) == {"/recommend", "/similar", "/health", "/metrics"}


@pytest.mark.parametrize(
    ("body", "place", "message"),
    [
        ({}, "ByHistory.history", "required"),
        ([], "ByHistory", "valid dictionary"),
        ({"history": "i3"}, "ByHistory.history", "valid list"),
        ({"history": [3]}, "ByHistory.history.0.Id", "valid string"),
        ({"history": ["i3"], "top": 0}, "ByHistory.top", "greater than or equal to 1"),
        ({"history": ["i3"], "top": "9"}, "ByHistory.top", "expected a number"),
        ({"history": ["i3"], "top": True}, "ByHistory.top", "expected a number"),
        ({"history": ["i3"], "top": 9.5}, "ByHistory.top", "valid integer"),
        (
            {"history": ["i3", {"item": "i3", "time": True}]},
            "ByHistory.history.1.Event.time",
            "expected a number",
        ),
        ({"history": ["i3"], "top": 21}, "ByHistory.top", "less than or equal to 20"),
        ({"history": ["i3"] * 9}, "ByHistory.history", "at most 8 items"),
        ({"history": ["i3"], "exclude": ["i3"] * 9}, "ByHistory.exclude", "at most 8 items"),
        ({"history": ["i3"], "seen": "perhaps"}, "ByHistory.seen", "'hide' or 'keep'"),
        ({"history": ["i3"], "user": "u7"}, "ByUser.history", "not permitted"),
        ({"user": 7}, "ByUser.user", "valid string"),
        ({"user": "u7", "top": 21}, "ByUser.top", "less than or equal to 20"),
        ({"history": ["\ud800"]}, "ByHistory.history.0.Id", "half a surrogate pair"),
    ],
)
def test_wrong_requests_are_told(body, place, message, small_runs):
    limits = Limits(body=500, history=8, top=20)
    with TestClient(make_app(lambda: load(small_runs("pop").folder), limits)) as client:
        answer = client.post("/recommend", content=json.dumps(body), headers=JSON)
        assert answer.status_code == 422
        (fault,) = answer.json()["detail"]
        assert ".".join(map(str, fault["loc"])) == f"body.{place}" and message in fault["msg"]


def test_bodies_are_bounded(small_runs):
    limits = Limits(body=500)
    with TestClient(make_app(lambda: load(small_runs("pop").folder), limits)) as client:
        fits = '{"history": ["i3"]}' + " " * 400
        assert client.post("/recommend", content=fits, headers=JSON).status_code == 200
        for content in (fits + " " * 200, iter([fits.encode(), b" " * 200])):  # known, in chunks
            answer = client.post("/recommend", content=content, headers=JSON)
            assert answer.status_code == 413 and "Too Large" in answer.text


def test_numbers_that_json_cannot_say_again(small_runs):
    with TestClient(make_app(lambda: load(small_runs("pop").folder), Limits())) as client:
        for content in (
            '{"history": ["i3"], "top": 1e999}',
            '{"history": ["i3"], "top": NaN}',
            "{",
        ):
            answer = client.post("/recommend", content=content, headers=JSON)
            assert answer.status_code == 422 and answer.json()["detail"][0]["msg"]


def test_a_run_that_reads_times(tmp_path):
    lines = write_log(tmp_path / "log.txt").read_text().splitlines()
    rows = [f"{line.replace(' ', ',')},{1e9 + n * 99_991:.0f}" for n, line in enumerate(lines)]
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    flags = ("--model", "sasrec", "--epochs", "1", "--time-bias")
    assert train(tmp_path / "log.csv", tmp_path / "run", *flags) == 0
    engine = load(tmp_path / "run")
    with TestClient(make_app(lambda: engine, Limits())) as client:
        events = [
            {"item": "i3", "time": 1.0e9},
            {"item": "x", "time": 2e9},
            {"item": "i5", "time": 3e9},
        ]
        found = ask(client, history=events, top=5)
        expected = engine.run.recommend([["i3", "i5"]], times=[[1.0e9, 3e9]], top=5)
        same(found, expected)
        same(ask(client, user="u7", top=5), engine.run.recommend("u7", top=5))
        assert client.post("/recommend", json={"history": ["i3"]}).status_code == 409


def test_another_run_is_swapped_in(small_runs, tmp_path):
    first, path = small_runs("sasrec"), tmp_path / "served"
    shutil.copytree(first.folder, path)
    second = small_run("sasrec", tmp_path, seed=1)
    with TestClient(make_app(lambda: load(path), Limits(), token="sécret")) as client:
        same(ask(client, history=["i3"]), first.recommend([["i3"]]))
        for headers in (
            {},
            {"Authorization": "Bearer other"},
            {"Authorization": b"Basic " + "sécret".encode()},
        ):
            assert client.post("/reload", headers=headers).status_code == 401
        shutil.rmtree(path)
        failed = client.post("/reload", headers=TOKEN)
        assert failed.status_code == 409 and "not a run folder" in failed.json()["detail"]
        same(ask(client, history=["i3"]), first.recommend([["i3"]]))
        shutil.copytree(second.folder, path)
        assert client.post("/reload", headers=TOKEN).status_code == 200
        same(ask(client, history=["i3"]), second.recommend([["i3"]]))
        text = client.get("/metrics").text
        assert 'rka_fast_reloads_total{result="done"} 1.0' in text
        assert 'rka_fast_reloads_total{result="failed"} 1.0' in text


@pytest.mark.slow
def test_a_damaged_export_is_told(exports, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(exports("sasrec"), folder)
    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(FolderError, match=r"model\.onnx cannot be read: .*; export again"):
        load(folder)
    facts = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**facts, "format": 2}))
    with pytest.raises(FolderError, match="its format is 2, this version reads 1; export again"):
        load(folder)
    (folder / "export.json").write_text(json.dumps(facts))
    (folder / "items.json").write_text('["i1"]')
    with pytest.raises(FolderError, match="different numbers of items; export again"):
        load(folder)
    (folder / "items.json").unlink()
    with pytest.raises(FolderError, match=r"not a whole export: .*items\.json"):
        load(folder)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port", "70000"], "--port must be at most 65535, got 70000"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--wait", "-1"], "--wait must be at least 0, got -1"),
        (["--port", "0"], "none is not a run folder"),
        (["--prot", "0"], "unknown flag --prot; did you mean --port?"),
    ],
)
def test_the_command_tells_what_is_wrong(flags, message, tmp_path, capsys):
    assert main(["serve", str(tmp_path / "none"), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ")


def test_small_answers_do_not_wait_for_acknowledgements():
    with listen("127.0.0.1", 0) as listening:
        with socket.create_connection(listening.getsockname()) as client:
            connection, _ = listening.accept()
            with connection:
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                client.close()
        with pytest.raises(ConfigError, match="cannot listen on 127.0.0.1 port"):
            listen(*listening.getsockname())
    with pytest.raises(ConfigError, match=r"cannot listen on a\.\.b port 0"):
        listen("a..b", 0)


@pytest.mark.slow
def test_packages_that_are_missing_are_named(small_runs, exports, monkeypatch, capsys, tmp_path):
    exported = exports("sasrec")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["serve", str(exported), "--port", "0"]) == 2
    assert "needs ONNX Runtime: pip install onnxruntime" in capsys.readouterr().err
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnx" else name)
    out = tmp_path / "new"
    assert main(["export", str(small_runs("sasrec").folder), "--out", str(out)]) == 2
    told = "error: ONNX needs onnx: pip install 'rka_fast[export]'\n"
    assert capsys.readouterr().err == told
    monkeypatch.setattr(serve, "find_spec", lambda name: None if name == "uvicorn" else name)
    assert main(["serve", str(small_runs("pop").folder), "--port", "0"]) == 2
    assert "serve needs uvicorn: pip install 'rka_fast[serve]'" in capsys.readouterr().err

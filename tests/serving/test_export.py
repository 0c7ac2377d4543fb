"""Exports of runs answer what the run answers, where neither torch nor rka_fast is."""

import json
import re
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch
from support.runs import train, write_log
from support.slow import slow

import rka_fast
from rka_fast.commands import main
from rka_fast.context import use_draws
from rka_fast.data.cooccurrence import CoOccurrence
from rka_fast.errors import ConfigError, FolderError
from rka_fast.explaining.attending import attentions
from rka_fast.serving.engine import Asked, load
from rka_fast.serving.graph import BucketCounts, MatrixCounts


@pytest.fixture(params=["rksa", slow("sasrec")])
def run(request, small_runs) -> rka_fast.Run:
    return small_runs(request.param)


@pytest.fixture
def exported(run, exports) -> Path:
    return exports(run.config.model)


@pytest.fixture(scope="session")
def bare(tmp_path_factory) -> list[str]:
    """The command of a Python that finds ONNX Runtime with what it needs, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    wanted, links = ["onnxruntime"], {}
    while wanted:
        found = distribution(wanted.pop())
        for file in found.files or ():
            links[file.parts[0]] = Path(found.locate_file(file.parts[0]))
        # ONNX Runtime's optional packages are extras, which have a marker.
        needs = [need for need in found.requires or () if ";" not in need]
        wanted += [re.match(r"[\w.-]+", need)[0] for need in needs]
    for name, target in links.items():
        if name != ".." and not (folder / name).exists():
            (folder / name).symlink_to(target)
    assert not {"torch", "rka_fast"} & set(links)
    start = (
        f"import sys; sys.path.append({str(folder)!r})\n"
        "for name in ('torch', 'rka_fast'):\n"
        "    try: __import__(name)\n"
        "    except ImportError: pass\n"
        "    else: raise AssertionError(name)\n"
        "exec(sys.stdin.read())\n"
    )
    return [sys.executable, "-I", "-S", "-c", start]


def answers(folder: Path, python: list[str], histories: list[list[str]], top: int) -> list:
    """What the Python of the folder's README recommends."""
    page = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    code += f"\nprint(json.dumps(recommend({histories!r}, {top})))\n"
    done = subprocess.run(
        python, input=code, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    example, *_, found = done.stdout.splitlines()
    assert example.startswith("[[('")
    return [[(item, score) for item, score in row] for row in json.loads(found)]


def same_lists(run: rka_fast.Run, histories: list[list[str]], found: list, top: int) -> None:
    """Scores of the places to 1e-5, items the same apart from neighbours closer than that."""
    assert len(found) == len(histories)
    for history, got in zip(histories, found, strict=True):
        batch = run.batcher.history(run.sequences.item_indices(history).tolist())
        with torch.no_grad():
            scores = run.model.scores(batch)[0]
        scores[run.sequences.item_indices(history)] = -torch.inf
        expected = scores.sort(descending=True).values[:top].numpy()
        assert len(got) == min(top, run.sequences.num_items - len(set(history)))
        np.testing.assert_allclose([x for _, x in got], expected[: len(got)], rtol=0, atol=1e-5)
        mine = scores[run.sequences.item_indices([item for item, _ in got])].numpy()
        np.testing.assert_allclose(mine, expected[: len(got)], rtol=0, atol=1e-5)
        assert len({item for item, _ in got}) == len(got)


def some_histories(run: rka_fast.Run, count: int) -> list[list[str]]:
    """Of users at random, cut at random; some are longer than the model reads."""
    rng, sequences = np.random.default_rng(0), run.sequences
    users = rng.integers(sequences.num_users, size=count)
    cut = [sequences.sequence(user)[: rng.integers(1, 10_000)] for user in users]
    cut = [row if n % 2 else row[: rng.integers(1, len(row) + 1)] for n, row in enumerate(cut)]
    return [[sequences.item_id(item) for item in row] for row in cut]


@pytest.mark.slow
def test_the_readmes_python_answers_without_torch_and_rka_fast(run, exported, bare):
    histories = some_histories(run, 100)
    assert max(map(len, histories)) > run.config.max_length
    same_lists(run, histories, answers(exported, bare, histories, 10), 10)
    alone = histories[:1]
    same_lists(run, alone, answers(exported, bare, alone, 3), 3)
    # What nobody knows is left out, and a list has no more than there is.
    (got,) = answers(exported, bare, [["nothing", *histories[1]]], run.sequences.num_items)
    same_lists(run, [histories[1]], [got], run.sequences.num_items)
    # Somebody without a known item has no list, and the others have theirs.
    none, got, also_none = answers(exported, bare, [["nothing"], histories[1], []], 10)
    assert none == also_none == []
    same_lists(run, [histories[1]], [got], 10)


@pytest.mark.slow
def test_what_lies_beside_the_graph(run, exported):
    facts = json.loads((exported / "export.json").read_text())
    assert facts["model"] == run.config.model and facts["length"] == run.config.max_length
    items = json.loads((exported / "items.json").read_text(encoding="utf-8"))
    assert items == run.sequences.item_ids
    split = run.batcher.split
    events = split.sequences.items[split.training_events].tolist()
    assert facts["popularity"] == [events.count(item) for item in range(1, len(items) + 1)]
    vectors = np.load(exported / "vectors.npy")
    assert (vectors == run.model.item_vectors()[1:].detach().numpy()).all()


@pytest.mark.parametrize(
    ("mode", "written"),
    [slow("location", "location"), slow("sample", "mean")],
)
def test_the_graph_evaluates_as_the_run_does(mode, written, tmp_path):
    pytest.importorskip("onnxruntime")
    log = write_log(tmp_path / "log.txt")
    assert train(log, tmp_path / "run", "--epochs", "1", "--eval-mode", mode) == 0
    run = rka_fast.Run.load(tmp_path / "run")
    with torch.no_grad():  # after one epoch the modes hardly differ
        for attention in attentions(run.model):
            attention.spread_query.weight.mul_(30)
            attention.out_proj.weight.mul_(30)
    engine = load(rka_fast.export(run, tmp_path / "export"))
    history = run.sequences.sequence(0).astype(np.int64)
    (listed,) = engine.rank([Asked(history, np.zeros(0, np.int64), 20)])
    scores = {}
    for each in ("location", "mean"):
        with torch.no_grad(), use_draws(run.model, each):
            scores[each] = run.model.scores(run.batcher.history(history.tolist()))[0].numpy()
    found = {each: x[listed.items] for each, x in scores.items()}
    print(
        np.abs(found["location"] - found["mean"]).max(),
        np.abs(listed.scores - found["mean"]).max(),
        np.abs(listed.scores - found["location"]).max(),
    )
    np.testing.assert_allclose(listed.scores, found[written], rtol=0, atol=1e-5)
    assert np.abs(found["location"] - found["mean"]).max() > 1e-3  # far beyond it


@pytest.mark.slow
@pytest.mark.parametrize("run", ["rksa"], indirect=True)  # C++ is compiled, for a minute
def test_aotinductor(run, tmp_path):
    folder = rka_fast.export(run, tmp_path / "of", format="aoti")
    start = "import sys; sys.modules['rka_fast'] = None; exec(sys.stdin.read())"
    histories = some_histories(run, 40)
    found = answers(folder, [sys.executable, "-c", start], histories, 10)
    same_lists(run, histories, found, 10)
    same_lists(
        run, histories[:1], answers(folder, [sys.executable, "-c", start], histories[:1], 10), 10
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", ["rksa", "sasrec"])
def test_parity_on_a_thousand_real_histories(model, shared_data, bare, tmp_path):
    log = shared_data / "ml-100k" / "u.data.gz"
    flags = ["--data", str(log), "--out", str(tmp_path / "run"), "--model", model]
    assert main(["train", *flags, "--epochs", "3", "--device", "cpu"]) == 0
    run = rka_fast.Run.load(tmp_path / "run")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "of")]) == 0
    histories = some_histories(run, 1000)
    same_lists(run, histories, answers(tmp_path / "of", bare, histories, 10), 10)


@pytest.mark.parametrize("form", [MatrixCounts, BucketCounts])
def test_counts_are_those_of_the_log(form):
    run = np.random.default_rng(0)
    matrix = run.random((300, 41)) < 0.1
    matrix[:, 0] = False  # padding
    counts = matrix.T.astype(np.int32) @ matrix
    lookup = form(CoOccurrence.of([scipy.sparse.csr_matrix(counts)]))
    items = run.integers(0, 41, (7, 30))
    found = lookup(torch.from_numpy(items)).numpy()
    assert (found == counts[items[:, :, None], items[:, None, :]]).all() and found.max() > 5


def test_counts_of_nothing():
    empty = CoOccurrence.of([scipy.sparse.csr_matrix((5, 5), dtype=np.int32)])
    assert (BucketCounts(empty)(torch.tensor([[0, 1, 4]])) == 0).all()


def test_errors(run, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(FolderError, match="full exists already and is not empty"):
        rka_fast.export(run, tmp_path / "full")
    with pytest.raises(ConfigError, match="format: expected onnx or aoti, got 'pt'"):
        rka_fast.export(run, tmp_path / "new", format="pt")
    with pytest.raises(ValueError, match="expected a path and format alone with a run"):
        rka_fast.export(run, tmp_path / "new", mode="location")
    assert main(["export", str(tmp_path / "none"), "--out", str(tmp_path / "new")]) == 2
    assert "none is not a run folder" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "pop"), "a run of pop cannot be exported; expected one of"),
        (("--model", "bpr_mf", "--epochs", "1"), "a run of bpr_mf cannot be exported"),
        (("--epochs", "1", "--time-bias"), "time_bias cannot be exported"),
    ],
)
def test_what_cannot_be_exported_is_told(flags, message, tmp_path, capsys):
    lines = write_log(tmp_path / "log.txt").read_text().splitlines()
    rows = [f"{line.replace(' ', ',')},{1e9 + n * 99_991:.0f}" for n, line in enumerate(lines)]
    (tmp_path / "log.csv").write_text("user,item,timestamp\n" + "\n".join(rows) + "\n")
    assert train(tmp_path / "log.csv", tmp_path / "run", *flags) == 0
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()

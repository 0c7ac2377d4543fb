"""The script for a GPU as far as it goes without one: a dry run, and its report of made-up rows."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from card import peers, report, workload
from card.workload import CASES, Shape

from rka_fast import native
from rka_fast.ops.reference import attention, philox

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.skipif(bool(native.why_not("_cpp")), reason="the dry run needs the C++ backend")
def test_dry_run(tmp_path):
    """Every step that needs no GPU runs, finds nothing wrong, and ends up in the report."""
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
    command = ["bash", str(ROOT / "benchmarks/on_card.sh"), "--dry-run", "--budget", "400"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    data = json.loads((tmp_path / "report.json").read_text())
    assert {step["status"] for step in data["steps"]} <= {0, 127}
    rows = [row for row in data["rows"] if row.get("backend") == "cpp"]
    correct = [row for row in rows if row["step"] == "correct"]
    assert [row["case"] for row in correct] == [dict(case) for case in CASES[:8]]
    assert all(row["ok"] for row in correct)
    trained = [row["model"] for row in data["rows"] if row["step"] == "train"]
    assert trained == ["sasrec", "rksa"]
    assert "Nothing is wrong" in (tmp_path / "report.md").read_text()


def test_the_peer_on_flex_attention_draws_the_operators_logits(monkeypatch):
    """With its noise in place of PyTorch's; FlexAttention itself has no gradients on the CPU."""
    monkeypatch.setattr(workload, "DEVICE", "cpu")
    a = workload.plain(Shape(batch=3, heads=2, length=9, width=8))
    a = a._replace(value=torch.eye(9).expand(3, 2, -1, -1))
    noise = iter(
        (
            philox.normals(a.seed, 3, 2, range(9), 9, torch.float32),
            philox.skew_noise(a.seed, 3, 2, range(9), torch.float32),
        )
    )
    monkeypatch.setattr(torch, "randn_like", lambda like: next(noise))
    location = torch.nn.functional.leaky_relu(a.query @ a.key.mT / 8**0.5)
    logits = location + peers.spread_of_logits(a)
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    weights = logits.masked_fill(future, -torch.inf).softmax(-1)
    torch.testing.assert_close(weights, attention.attention(a), rtol=1e-5, atol=1e-6)


def rows_in(folder: Path, *rows: dict) -> Path:
    lines = (json.dumps({"at": i, **row}) + "\n" for i, row in enumerate(rows))
    (folder / "rows-1.jsonl").write_text("".join(lines))
    return folder


SHAPE = {"batch": 2, "heads": 1, "length": 4, "width": 8}
TIMES = {"step": "times", "what": "triton", "auto": True, "forward_ms": 2.0, "backward_ms": 3.0}
EAGER = {"step": "peers", "what": "eager by autograd", "forward_ms": 10.0, "both_ms": 20.0}


def test_report_divides_by_what_auto_picks(tmp_path):
    """Forward by what it picks where no gradient is recorded."""
    other = {**TIMES, **SHAPE, "what": "cuda", "auto": False, "forward_ms": 1.0}
    other["auto_forward"] = True
    longer = {**EAGER, **SHAPE, "length": 5, "forward_ms": 99.0}
    work = rows_in(tmp_path, {**TIMES, **SHAPE}, other, longer, {**EAGER, **SHAPE})
    (row,) = report.collect(work)["speed"]
    assert row["auto"] == "triton" and row["both_ms"] == 5.0
    assert row["auto forward"] == "cuda" and row["forward_ms"] == 1.0
    assert row["eager / ours, forward"] == 10.0 and row["eager / ours, both"] == 4.0
    assert row["compiled / ours, both"] is None


def test_report_finds_what_is_wrong(tmp_path):
    bad = {"step": "correct", "backend": "cuda", "case": {"mode": "mean"}, "ok": False}
    work = rows_in(tmp_path, {**TIMES, **SHAPE, "auto_forward": True}, bad)
    (work / "steps.tsv").write_text("times\t0\t3\ncounters\t127\t0\npeers\t124\t90\n")
    (work / "memcheck.log").write_text("== ERROR SUMMARY: 0 errors\n")
    (work / "racecheck.log").write_text("== RACECHECK SUMMARY: 3 hazards displayed (3 errors)\n")
    assert report.main(tmp_path, work) == 1
    text = (tmp_path / "report.md").read_text()
    wrong = text.split("Wrong:")[1].split("Made by")[0]
    assert "cuda" in wrong and "mean" in wrong  # the case
    assert "peers" in wrong and "124" in wrong  # the step that was cut off
    assert "3 hazards" in wrong and "memcheck" not in wrong and "counters" not in wrong


def test_report_without_any_measurement_is_no_success(tmp_path):
    work = rows_in(tmp_path, {"step": "correct", "backend": "cuda", "absent": "not built"})
    assert report.main(tmp_path, work) == 2


@pytest.mark.parametrize("form", ["long", "wide"])
def test_counters_of_both_forms_of_the_profiler(tmp_path, form):
    metrics = {"smsp__inst_executed.sum": "2,112", "gpu__time_duration.sum": "5000000"}
    if form == "long":
        lines = ['"ID","Kernel Name","Metric Name","Metric Value"']
        lines += [f'"0","forward_kernel","{n}","{x}"' for n, x in metrics.items()]
        lines += [f'"1","at::native::add","{n}","{x}"' for n, x in metrics.items()]
    else:
        lines = ['"ID","Kernel Name",' + ",".join(f'"{n}"' for n in metrics), '"","","inst","ns"']
        values = ",".join(f'"{x}"' for x in metrics.values())
        lines += [f'"0","forward_kernel",{values}', f'"1","at::native::add",{values}']
    path = tmp_path / "ncu.csv"
    path.write_text("==PROF== something\n" + "\n".join(lines) + "\n")
    (row,) = report.counters(path)
    assert row["kernel"] == "forward_kernel"
    assert row["instructions"] == 2112 / report.SEQUENCES and row["ms"] == 5.0

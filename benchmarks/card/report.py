"""`python -m card.report OUT WORK`: the rows of all steps as OUT/report.md and OUT/report.json.

Exit status 1 where a step found something wrong, 2 where none of the operator's steps ran.
"""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]
STATUS = "exit status 0: done, 124: out of time, 127: the tool is not here, -1: not begun"
METRICS = {
    "smsp__inst_executed.sum": "instructions",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum": "wavefronts",
    "sm__inst_executed_pipe_tensor.sum": "tensor",
    "dram__bytes.sum": "DRAM bytes",
}
SEQUENCES = 1056  # of the step that is profiled
FOREIGN = r"at::|elementwise|reduce_kernel|cub::|vectorized"


def table(rows: list[Row]) -> list[str]:
    """Markdown, with a column for every name in the order of appearance."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(cell(row.get(c)) for c in columns) + " |" for row in rows]


def cell(x: Any) -> str:
    if isinstance(x, float):
        return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"
    return "" if x is None else re.sub(r"\s+", " ", str(x)).replace("|", "/")


def speedups(rows: list[Row]) -> list[Row]:
    """What `auto` picks beside the eager reference and torch.compile, for each shape."""
    shape_of = ("batch", "heads", "length", "width")
    ours = [row for row in rows if row["step"] == "times" and row.get("auto")]
    result = []
    for row in ours:
        shape = {name: row[name] for name in shape_of}

        def other(step: str, what: str, passes: str, shape: Row = shape) -> float | None:
            found = (
                r.get(passes)
                for r in rows
                if r["step"] == step and r.get("what") == what and shape.items() <= r.items()
            )
            return next(found, None)

        both = row["forward_ms"] + row["backward_ms"]
        alone = next(  # where no gradient is recorded; the row in hand where that one failed
            (r for r in rows
             if r["step"] == "times" and r.get("auto_forward") and shape.items() <= r.items()),
            row,
        )  # fmt: skip
        forward = alone["forward_ms"]
        line = {**shape, "auto": row["what"], "both_ms": both,
                "auto forward": alone["what"], "forward_ms": forward}  # fmt: skip
        for name, step, what in (
            ("eager", "peers", "eager by autograd"),
            ("eager with randn", "peers", "eager, torch.randn"),
            ("compiled", "peers", "torch.compile"),
            ("FlexAttention", "peers", "FlexAttention + eager spread"),
            ("sdpa", "peers", "sdpa"),
        ):
            for passes, mine in (("forward_ms", forward), ("both_ms", both)):
                theirs = other(step, what, passes)
                line[f"{name} / ours, {passes[:-3]}"] = theirs / mine if theirs else None
        result.append(line)
    return result


def counters(path: Path) -> list[Row]:
    """One row for each kernel of ncu's CSV, long or wide, by sequence."""
    lines = [line for line in path.read_text().splitlines() if line.startswith('"')]
    kernels: dict[str, Row] = {}
    for row in csv.DictReader(lines):
        if not row.get("ID"):
            continue  # units of the wide form
        entry = kernels.setdefault(row["ID"], {"kernel": row.get("Kernel Name", "?")})
        long = "Metric Name" in row
        items = [(row["Metric Name"], row["Metric Value"])] if long else list(row.items())
        for name, value in items:
            if name and "__" in name:
                entry[name] = number(value)
    return [by_sequence(x) for x in kernels.values() if not re.search(FOREIGN, x["kernel"])]


def number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None


def by_sequence(x: Row) -> Row:
    row: Row = {"kernel": x["kernel"][:60]}
    for metric, name in METRICS.items():
        if x.get(metric) is not None:
            row[name] = x[metric] / SEQUENCES
    row["ms"] = (x.get("gpu__time_duration.sum") or 0.0) / 1e6
    row["issued a cycle"] = x.get("smsp__inst_issued.avg.per_cycle_active")
    for metric, value in x.items():
        if found := re.search(r"stalled_(\w+)_per_issue", metric):
            row[found[1]] = value
    return row


def predicted() -> list[Row]:
    """The counts of the same kernels from an emulator, as committed beside the results."""
    path = Path(__file__).resolve().parents[1] / "results" / "kernels-predicted.json"
    return json.loads(path.read_text()) if path.is_file() else []


def collect(work: Path) -> Row:
    """Everything the steps left in `work`."""
    files = sorted(work.glob("rows-*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows.sort(key=lambda row: row.pop("at"))
    log = work / "steps.tsv"
    lines = log.read_text().splitlines() if log.is_file() else []
    steps = [
        {"step": name, "status": int(status), "seconds": int(seconds)}
        for name, status, seconds in (line.split("\t") for line in lines)
    ]
    data: Row = {"steps": steps, "rows": rows, "speed": speedups(rows)}
    if (work / "ncu.csv").is_file():
        data["counters"] = counters(work / "ncu.csv")
        data["predicted"] = predicted()
    for check in ("memcheck", "racecheck"):
        if (path := work / f"{check}.log").is_file():
            pattern = r".*(?:ERROR|WARN|hazard|Invalid|SUMMARY).*"
            data[check] = re.findall(pattern, path.read_text())[:200]
    return data


def wrong(data: Row) -> list[str]:
    """What is not as it must be, one line each."""
    bad = [row for row in data["rows"] if row.get("ok") is False]
    named = ("step", "backend", "what", "model", "case", "worst", "error", "allowed", "failed")
    found = [", ".join(f"{k} {row[k]}" for k in named if k in row) for row in bad]
    late = [s for s in data["steps"] if s["status"] not in (0, 127)]
    found += [f"step {s['step']} ended with status {s['status']}" for s in late]
    for check in ("memcheck", "racecheck"):
        summary = [line for line in data.get(check, []) if "SUMMARY" in line]
        found += [f"{check}: {line}" for line in summary if not re.search(r"\b0 (err|haz)", line)]
    return found


def markdown(data: Row) -> list[str]:
    versions = next((row for row in data["rows"] if row["step"] == "versions"), {})
    text = [f"# {versions.get('device', 'unknown device')}", ""]
    faults = wrong(data)
    text += ["Wrong:", "", *(f"- {line}" for line in faults)] if faults else ["Nothing is wrong."]
    text += ["", "Made by `benchmarks/on_card.sh`; times are medians of CUDA events in ms."]
    if data["speed"]:
        text += ["", "## What auto picks", "", *table(data["speed"])]
    for step in dict.fromkeys(row["step"] for row in data["rows"]):
        rows = [{k: v for k, v in row.items() if k != "step"} for row in data["rows"]
                if row["step"] == step]  # fmt: skip
        text += ["", f"## {step}", "", *table(rows)]
    if "counters" in data:
        text += ["", f"## counters, by sequence, of {SEQUENCES}", "", *table(data["counters"])]
        text += ["", "predicted:", "", *table(data["predicted"])] if data["predicted"] else []
    for check in ("memcheck", "racecheck"):
        if check in data:
            text += ["", f"## {check}", "", *(f"    {x}" for x in dict.fromkeys(data[check][:8]))]
    return [*text, "", "## steps", "", STATUS, "", *table(data["steps"])]


def main(out: Path, work: Path) -> int:
    data = collect(work)
    (out / "report.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    text = markdown(data)
    (out / "report.md").write_text("\n".join(text) + "\n", encoding="utf-8")
    print("\n".join(text))
    measured = any(row["step"] in ("correct", "times") and "absent" not in row
                   for row in data["rows"])  # fmt: skip
    return 2 if not measured else int(bool(wrong(data)))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))

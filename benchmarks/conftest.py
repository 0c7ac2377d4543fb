"""What the benchmarks share: threads, what each result says about itself, the summary table."""

import statistics
import time
from pathlib import Path

import pytest
import torch
from peers import DEVICE, THREADS


def pytest_addoption(parser):
    parser.addoption("--report", metavar="FILE", help="write the summary table to FILE (Markdown)")
    parser.addoption("--slow", action="store_true", help="also what takes minutes to compile")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--slow"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    yield
    torch.set_num_threads(before)


def sgemm_rate() -> float:
    """The machine's float32 matrix product, in 10^9 operations per second."""
    x = torch.randn(*(4096 if DEVICE == "cuda" else 1024,) * 2, device=DEVICE)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        x @ x
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2e-9 * len(x) ** 3 / statistics.median(times[2:])


def pytest_terminal_summary(terminalreporter, config):
    session = getattr(config, "_benchmarksession", None)
    rows = [b for b in session.benchmarks if "backend" in b.extra_info] if session else []
    if not rows:
        return
    torch.set_num_threads(THREADS)
    table = summary(rows, sgemm_rate())
    terminalreporter.section(f"{THREADS} threads, torch {torch.__version__}")
    terminalreporter.write_line(table)
    if path := config.getoption("--report"):
        Path(path).write_text(table + "\n")


def summary(benchmarks, sgemm: float) -> str:
    """A Markdown table: medians, ratios to the reference and to sdpa, rate, memory."""
    median = {_key(b): b.stats.median for b in benchmarks}
    lines = [
        f"Share: of this machine's float32 matrix product, {sgemm:.0f} GFLOP/s. Floor: the least "
        "time for the counted operations and bytes (kernel_report.py), on cards that it knows.",
        "",
        "| operator | shape | pass | backend | median ms | faster than reference "
        "| than compiled | times sdpa | GFLOP/s | share | of the floor | peak MB |",
        "|---|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for b in sorted(benchmarks, key=_key):
        op, shape, passes, backend = _key(b)
        seconds = median[_key(b)]
        reference, compiled, sdpa = (
            median.get((op, shape, passes, peer)) for peer in ("reference", "compiled", "sdpa")
        )
        work, size = b.extra_info["gflops"], b.extra_info["bytes"]
        floor = b.extra_info.get("floor")
        rate = None if work is None else work / seconds
        cells = (
            op, shape, passes, backend, f"{seconds * 1e3:.2f}",
            f"{reference / seconds:.1f}x" if reference else "",
            f"{compiled / seconds:.1f}x" if compiled else "",
            f"{seconds / sdpa:.2f}" if sdpa else "",
            "" if rate is None else f"{rate:.0f}", "" if rate is None else f"{rate / sgemm:.0%}",
            f"{floor / seconds:.0%}" if floor else "",
            "" if size is None else f"{size / 2**20:.1f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _key(benchmark) -> tuple[str, str, str, str]:
    info = benchmark.extra_info
    return info["op"], info["shape"], info["pass"], info["backend"]

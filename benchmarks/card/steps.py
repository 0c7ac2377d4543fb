"""The steps of on_card.sh, `python -m card.steps NAME`; the rows they add become the report."""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from kernel_report import CARDS, floor, work
from torch import Tensor

from card.peers import PEERS
from card.workload import (
    CASES,
    DEVICE,
    SIZE,
    Shape,
    arguments,
    backends,
    double,
    first,
    median_ms,
    needs,
    plain,
    poison,
    shapes,
    synchronize,
)
from rka_fast.ops.arguments import DIFFERENTIABLE
from rka_fast.ops.backends import BACKENDS, Backend, choose
from rka_fast.ops.reference import Reference

WORK = Path(os.environ.get("CARD_WORK", "."))
REFERENCE = Reference()
# In the root mean square, relative to float64, beside three times what the reference loses in the
# precision of the inputs: rounding of an output, and of a gradient that sums over many.
BAND, BAND_OF_GRADIENTS = 2e-6, 2e-5
NEEDED = ("polars", "tyro", "accelerate", "safetensors", "tqdm", "matplotlib")  # to train


def add(step: str, **row: Any) -> None:
    """A row of the report, and a line of the log."""
    with (WORK / f"rows-{os.getpid()}.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "at": time.time(), **row}, default=str) + "\n")
    text = (f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items())
    print(step, *text, flush=True)


@contextlib.contextmanager
def guarded(step: str, **row: Any) -> Iterator[None]:
    """An exception becomes a row; what comes after still runs."""
    try:
        yield
    except Exception as error:
        add(step, **row, ok=False, failed=f"{type(error).__name__}: {error}"[:300])
        if DEVICE == "cuda":
            torch.cuda.empty_cache()


def relative(x: Tensor, exact: Tensor) -> float:
    difference = x.double() - exact.double()
    return float(difference.norm() / exact.double().norm().clamp_min(1e-30))


def versions() -> None:
    names = ("torch", "triton", "numpy", *NEEDED)
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "missing"
    card = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    add(
        "versions", python=platform.python_version(), cuda=torch.version.cuda, **found,
        device=card.name if card else "no GPU",
        multiprocessors=card.multi_processor_count if card else 0,
    )  # fmt: skip


def compile_(which: str, of: str) -> None:
    """Triton's kernels of some of the cases, so that what follows finds them compiled."""
    backend = backends().get("triton")
    if backend is None:
        add("compile", absent="; ".join(BACKENDS["triton"].why_not(None)) or "not on this device")
        return
    for case in CASES[int(which) :: int(of)]:
        with guarded("compile", case=case):
            a, start = arguments(**case), time.perf_counter()
            backend.forward(a)
            middle = time.perf_counter()
            backend.backward(torch.randn_like(a.value), needs(a), a)
            synchronize()
            seconds = {"forward_s": middle - start, "backward_s": time.perf_counter() - middle}
            add("compile", case=case, **seconds)


def correct(which: str) -> None:
    """Every case of the backend "triton", or of the "others", against float64."""
    found = backends()
    wanted = [n for n in BACKENDS if n != "reference" and (n == "triton") == (which == "triton")]
    for name in wanted:
        if name not in found:
            reasons = BACKENDS[name].why_not(None) or [f"it does not serve {DEVICE} tensors"]
            add("correct", backend=name, absent="; ".join(reasons)[:300])
            continue
        for case in CASES if SIZE != "dry" else CASES[:8]:
            with guarded("correct", backend=name, case=case):
                one_case(name, found[name], case)
        for length in (50, 200) if DEVICE == "cuda" else (50,):
            with guarded("many", backend=name, length=length):
                many(name, found[name], length)


def one_case(name: str, backend: Backend, case: dict[str, Any]) -> None:
    """Output and gradients from poisoned memory, and the same bits again."""
    a = arguments(**case)
    if reasons := backend.why_not(a):
        add("correct", backend=name, case=case, absent="; ".join(reasons))
        return
    rng = torch.Generator(DEVICE).manual_seed(1)
    grad = torch.randn(a.value.shape, device=DEVICE, generator=rng).to(a.value.dtype)
    poison()
    output = backend.forward(a)
    poison()
    grads = backend.backward(grad, needs(a), a)
    exact = [REFERENCE.forward(double(a)), *REFERENCE.backward(grad.double(), needs(a), double(a))]
    eager = [REFERENCE.forward(a), *REFERENCE.backward(grad, needs(a), a)]
    errors = [relative(x, y) for x, y in zip([output, *grads], exact, strict=True)]
    bands = [BAND] + [BAND_OF_GRADIENTS] * len(grads)
    allowed = [3 * relative(x, y) + b for x, y, b in zip(eager, exact, bands, strict=True)]
    shares = [e / most for e, most in zip(errors, allowed, strict=True)]
    worst = max(range(len(shares)), key=shares.__getitem__)
    again = [backend.forward(a), *backend.backward(grad, needs(a), a)]
    same = all(torch.equal(x, y) for x, y in zip([output, *grads], again, strict=True))
    names = ["output", *(DIFFERENTIABLE[i] for i in needs(a))]
    add(
        "correct", backend=name, case=case,
        ok=same and all(share <= 1 for share in shares),  # NaN is not
        forward=errors[0], worst=names[worst], error=errors[worst], allowed=allowed[worst],
        same_bits_again=same,
    )  # fmt: skip


def many(name: str, backend: Backend, length: int) -> None:
    """Programs take several sequences in turn; one alone has the same bits; a graph replays."""
    batch = (4096 if length <= 64 else 1024) if DEVICE == "cuda" else 64
    a = arguments(batch, length=length, padding=False)
    output = backend.forward(a)
    grad = torch.randn_like(output)
    error = relative(output[:64], REFERENCE.forward(double(first(a, 64))))
    alone = torch.equal(backend.forward(first(a, 1)), output[:1])
    row = {"backend": name, "sequences": batch, "length": length, "forward": error}
    row["one_alone"] = alone
    if DEVICE != "cuda":
        add("many", ok=error < 1e-5 and alone, **row, graph_replay="no GPU")
        return

    def both() -> list[Tensor]:
        return [backend.forward(a), *backend.backward(grad, needs(a), a)]

    expected, stream = both(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        both()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        again = both()
    graph.replay()
    torch.cuda.synchronize()
    replayed = all(torch.equal(x, y) for x, y in zip(again, expected, strict=True))
    add("many", ok=error < 1e-5 and alone and replayed, **row, graph_replay=replayed)


def verify() -> None:
    """The package's own proof, for each backend: seeded fuzz and the distribution of the draws."""
    if importlib.util.find_spec("rka_fast.verify") is None:
        add("verify", absent="this version has no rka_fast.verify")
        return
    cases = {"full": "200", "quick": "50", "dry": "4"}[SIZE]
    for name in backends():
        start = time.perf_counter()
        command = [sys.executable, "-m", "rka_fast.verify", "--cases", cases, "--backend", name]
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout + done.stderr, flush=True)
        lines = (done.stdout + done.stderr).strip().splitlines()
        seconds = time.perf_counter() - start
        add("verify", backend=name, ok=done.returncode == 0, seconds=seconds, said=lines[-1:])


def passes(a: Any, grad: Tensor, function: Callable[[Any], Tensor]) -> Callable[[], Any]:
    """Forward and backward by autograd."""
    names = [name for name in DIFFERENTIABLE if getattr(a, name) is not None]

    def both() -> Any:
        leaves = [getattr(a, name).detach().requires_grad_() for name in names]
        given = a._replace(**dict(zip(names, leaves, strict=True)))
        return torch.autograd.grad(function(given), leaves, grad, allow_unused=True)

    return both


def floor_ms(shape: Shape, backward: bool) -> float | None:
    """The least time of one pass in float32 on this card; None on one that is not known."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    card = next((card for card in CARDS if re.search(card.device, name)), None)
    if card is None:
        return None
    least, _ = floor(card, work(shape.length, shape.heads, shape.width, 4, backward), 4)
    return 1e3 * shape.batch * least


def times() -> None:
    """Each backend and the eager reference: medians, share of the floor, peak memory."""
    if DEVICE == "cuda":
        x = torch.empty(1 << 28, device=DEVICE)
        y = torch.empty_like(x)
        rate = 2e-9 * x.numel() * x.itemsize / median_ms(lambda: y.copy_(x))
        add("copy", TB_per_s=rate)
        del x, y
    for shape in shapes():
        a = plain(shape)
        grad, evaluating = torch.randn_like(a.value), choose("auto", a)
        training = choose("auto", a._replace(query=a.query.detach().requires_grad_()))
        for name, backend in {**backends(), "reference": REFERENCE}.items():
            with guarded("times", what=name, **shape._asdict()):
                picked = {"auto": name == training, "auto_forward": name == evaluating}
                add("times", what=name, **shape._asdict(), **picked,
                    **measured(shape, a, grad, backend))  # fmt: skip


def measured(shape: Shape, a: Any, grad: Tensor, backend: Backend) -> dict[str, float | None]:
    """Medians of both passes, shares of their floors, and what the backward pass allocates."""
    row: dict[str, float | None] = {"forward_ms": median_ms(lambda: backend.forward(a))}
    row["backward_ms"] = median_ms(lambda: backend.backward(grad, needs(a), a))
    for name, backward in (("forward", False), ("backward", True)):
        least = floor_ms(shape, backward)
        row[f"{name}_of_floor"] = None if least is None else least / row[f"{name}_ms"]
    if DEVICE == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        backend.backward(grad, needs(a), a)
        row["backward_MB"] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return row


def peers() -> None:
    """The same shapes by other means: eager with PyTorch's noise, compiled, FlexAttention, sdpa."""
    for shape in shapes():
        if SIZE == "full" and (shape.batch, shape.width) not in ((4096, 50), (4096, 64)):
            continue  # compiling takes longest; the small batches add little
        a = plain(shape)
        grad = torch.randn_like(a.value)
        for name, make in PEERS.items():
            with guarded("peers", what=name, **shape._asdict()):
                start = time.perf_counter()
                function = make(a)
                if isinstance(function, str):
                    add("peers", what=name, absent=function)
                    continue
                forward = median_ms(lambda: function(a))  # noqa: B023
                both = median_ms(passes(a, grad, function))
                seconds = time.perf_counter() - start
                add("peers", what=name, **shape._asdict(), forward_ms=forward, both_ms=both,
                    seconds=seconds)  # fmt: skip


def once(batch: str) -> None:
    """Every kernel once, for the profilers; what is compiled is compiled before."""
    calls = []
    for shape in ({}, {"heads": 2, "length": 200, "width": 64}):
        a = arguments(int(batch), **shape, padding=False, dropout=0.0)
        grad = torch.randn_like(a.value)
        for name, backend in backends().items():
            for call in (
                lambda b=backend, a=a: b.forward(a),
                lambda b=backend, a=a, grad=grad: b.backward(grad, needs(a), a),
            ):
                with guarded("once", backend=name, **shape):
                    call()
                    calls.append(call)
    synchronize()
    torch.cuda.profiler.start()
    for call in calls:
        call()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def train() -> None:
    """Seconds of an epoch of RKSA on made-up histories of MovieLens 1M's size."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        add("train", absent=f"needs {', '.join(missing)}: carry the wheels along")
        return
    from card.histories import write

    users, items, length = (6040, 3416, 200) if SIZE == "full" else (300, 200, 20)
    log, out = WORK / "histories.txt", WORK / "run"
    write(log, users, items, length)
    for model in ("sasrec", "rksa"):
        command = [
            sys.executable, "-m", "rka_fast.train", "--data", str(log), "--out", f"{out}-{model}",
            "--model", model, "--epochs", "2", "--eval-every", "2", "--width", "64",
            "--max-length", str(length), "--batch-size", "128", "--device", DEVICE,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        print(done.stdout[-3000:] + done.stderr[-3000:], flush=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            add("train", model=model, ok=False, failed="".join(lines[-1:])[:300])
            continue
        seconds = json.loads(Path(f"{out}-{model}/result.json").read_text())["seconds"]
        add("train", model=model, ok=True, users=users, length=length, **seconds)


STEPS: dict[str, Callable[..., None]] = {
    "versions": versions,
    "compile": compile_,
    "correct": correct,
    "verify": verify,
    "times": times,
    "peers": peers,
    "once": once,
    "train": train,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    STEPS[sys.argv[1]](*sys.argv[2:])

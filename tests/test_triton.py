"""Where the Triton backend says that it cannot run, and which path a call takes."""

import sys
from types import SimpleNamespace

import pytest
import torch

from rka_fast.ops import triton as backend
from rka_fast.ops.arguments import Arguments
from rka_fast.ops.backends import BACKENDS, choose


@pytest.fixture
def machine(monkeypatch):
    """A machine with CUDA devices of the capabilities given, and with Triton."""

    def new(*capabilities):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
        monkeypatch.setattr(torch.cuda, "get_device_capability", capabilities.__getitem__)
        monkeypatch.setitem(sys.modules, "triton", SimpleNamespace())
        monkeypatch.setattr(backend, "interpreted", lambda: False)
        backend._toolchain_refusals.cache_clear()

    yield new
    backend._toolchain_refusals.cache_clear()


def reasons():
    return "; ".join(BACKENDS["triton"].why_not(None))


def on_device(index):
    """Arguments that claim to be on a CUDA device."""
    x = SimpleNamespace(device=torch.device("cuda", index), dtype=torch.float32, shape=(1, 1, 4, 8))
    return Arguments(x, x, x)


def test_one_old_device_does_not_rule_out_the_other(machine):
    machine((7, 5), (9, 0))
    assert reasons() == ""
    (reason,) = BACKENDS["triton"].why_not(on_device(0))
    assert "device 0 has compute capability 7.5, 8.0 is needed" in reason
    assert BACKENDS["triton"].why_not(on_device(1)) == []


def test_only_old_devices_are_all_named(machine):
    machine((7, 5), (6, 1))
    assert "7.5" in reasons() and "6.1" in reasons()


def test_an_amd_card_that_was_never_compiled_for_is_refused(machine, monkeypatch):
    machine((11, 0), (9, 4))
    names = ("gfx1100", "gfx942:sramecc+:xnack-")
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(gcnArchName=names[i])
    )
    assert "device 0 is gfx1100" in BACKENDS["triton"].why_not(on_device(0))[0]
    assert BACKENDS["triton"].why_not(on_device(1)) == []


def test_a_machine_that_cannot_compile_launchers_is_refused_before_the_first(machine, monkeypatch):
    machine((9, 0))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(backend.shutil, "which", lambda name: None)
    monkeypatch.setattr(backend.sysconfig, "get_path", lambda name: "/nowhere")
    assert "gcc" in reasons() and "Python.h" in reasons()


def test_auto_on_the_cpu_does_not_take_the_interpreter(monkeypatch):
    if BACKENDS["cpp"].why_not(None):
        pytest.skip("needs the C++ backend")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delenv("RKA_FAST_BACKEND", raising=False)
    x = torch.zeros(1, 1, 4, 8)
    assert choose("auto", Arguments(x, x, x)) == "cpp"


@pytest.mark.parametrize(
    ("batch", "keys", "expected"),
    [(1, 128, True), (1, 129, False), (127, 200, False), (128, 200, True), (4096, 1024, True)],
)
def test_launches_of_their_own_are_for_a_few_long_sequences(batch, keys, expected):
    launch = pytest.importorskip("rka_fast.ops.triton.launch")
    x = torch.zeros(1).expand(batch, 1, keys, 8)
    assert launch.in_one_launch(Arguments(x, x, x)) is expected

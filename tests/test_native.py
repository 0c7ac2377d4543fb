"""What is the C++ backend's alone: threads, noise, instruction sets, and its library.

The operator's own tests, tests/ops, run over it as over every backend.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.cases import random_inputs, with_kernels
from support.processes import INSTALLED

import rka_fast
from rka_fast import info, kernelized_attention, native
from rka_fast.ops.native import loading
from rka_fast.ops.native.cpp import Cpp
from rka_fast.ops.reference import philox
from rka_fast.verification import bounds

ROOT = Path(__file__).parents[1]
needs_library = pytest.mark.skipif(
    bool(native.why_not("_cpp")), reason=f"C++ backend: {'; '.join(native.why_not('_cpp'))}"
)


@needs_library
def test_the_number_of_threads_changes_no_bit():
    padding = torch.zeros(7, 40, dtype=torch.bool)
    padding[2, :30] = padding[5, :] = True
    inputs = random_inputs(batch=7, n=40, width=8, bias=True, dtype=torch.float32)
    options = {"is_causal": True, "key_padding_mask": padding, "dropout_p": 0.1, "seed": 1}
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            results.append(bounds.evaluate(inputs, "cpp", **options))
    finally:
        torch.set_num_threads(threads)
    for name, first in results[0].items():
        assert all(torch.equal(other[name], first) for other in results[1:]), name


@needs_library
@pytest.mark.parametrize("seed", [0, 2**40 + 7, -5, -(2**63)])
@pytest.mark.parametrize("stream", [philox.NOISE, philox.SKEW, philox.DROPOUT])
def test_noise_words_are_those_of_the_reference(seed, stream):
    expected = philox.words(torch.tensor(seed), 2, 3, range(5), 9, stream)
    ops = torch.ops.rka_fast_native
    module = native.info_module()
    for head in (0, 5):
        for row in (0, 4):
            words = expected[head // 3, head % 3, row]
            actual = ops.philox_words_cpp(torch.tensor(seed), row, head, stream, 36)
            assert torch.equal(actual, words.flatten())
            scalar = module.philox_words(seed % 2**64, 7, row, head, stream)
            assert list(scalar) == words[7].tolist()


@needs_library
def test_normals_are_those_of_the_reference():
    seed = torch.tensor(11)
    rows = [torch.ops.rka_fast_native.normals_cpp(seed, row, 1, 4001) for row in range(5)]
    expected = philox.normals(seed, 1, 2, range(5), 4001, torch.float64)[0, 1]
    torch.testing.assert_close(torch.stack(rows).double(), expected, atol=1e-6, rtol=1e-6)


# What each set runs: a file or test that is gone is an error, and a skip a failure.
OF_EACH_SET = (
    "tests/ops/test_agreement.py",
    f"tests/test_native.py::{test_the_number_of_threads_changes_no_bit.__name__}",
    f"tests/test_native.py::{test_noise_words_are_those_of_the_reference.__name__}",
    f"tests/test_native.py::{test_normals_are_those_of_the_reference.__name__}",
)
BEGIN = """
import sys, pytest
sys.path.pop(0)  # the working folder, whose rka_fast need not be the built one
from rka_fast import native
print(native.cpp_instructions())
sys.exit(pytest.main(sys.argv[1:]))
"""


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize(
    ("instructions", "capabilities"),
    [("plain", None), ("avx2", ("AVX2", "AVX512")), ("avx512", ("AVX512",))],
)
def test_every_instruction_set(instructions, capabilities):
    """Where PyTorch says that the processor has it; the process says which one it ran."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capabilities and capability not in capabilities:
        pytest.skip(f"this processor has no {instructions}: of PyTorch it gets {capability}")
    arguments = ["--subject", "cpp", "-q", "-rs", "-p", "no:cacheprovider", *OF_EACH_SET]
    result = subprocess.run(
        [sys.executable, "-c", BEGIN, *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "RKA_FAST_CPP": instructions,
            "PYTHONPATH": str(INSTALLED),
        },
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    lines = result.stdout.splitlines()
    assert lines[0] == instructions
    assert " passed" in lines[-1] and "skipped" not in lines[-1], lines[-1]


@needs_library
def test_features_may_be_tiny():
    """1 / norm is finite, the product of two is not; K is that of the features before scaling.

    Squares of 1e-40 are subnormal, of 16 bits: cosines are off by 2^-16 at most, which K's
    concentration of 1.7 and the factor of a K of conditioning .05 grow.
    """
    inputs = random_inputs(n=9, dtype=torch.float32)
    tiny = with_kernels(inputs, features=inputs["covariance"].kernels.features * 1e-20)
    plain, scaled = (
        kernelized_attention(**x, seed=1, backend="cpp", is_causal=True) for x in (inputs, tiny)
    )
    assert (plain - scaled).abs().max() < 2**-16 * 2 * 1.7 / 0.05


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_a_compiler_means_the_backend_is_there():
    """Without this test a build that fails would show as skipped tests only."""
    assert "cpp" in rka_fast.available_backends(), native.why_not("_cpp")
    assert any(line.split()[:2] == ["cpp", "available"] for line in info.lines())
    facts = native.build_info()
    assert set(facts) == {"torch", "compiler", "cuda", "architectures", "no_cuda"}
    assert bool(facts["cuda"]) != bool(facts["no_cuda"])
    assert bool(facts["cuda"]) == (native.find("_cuda") is not None)
    assert facts["torch"] and facts["compiler"]
    assert native.cpp_instructions() in ("plain", "avx2", "avx512")


def test_a_missing_library_is_a_reason_and_not_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "folders", lambda: [tmp_path])
    native.load.cache_clear()
    try:
        assert native.find("_cpp") is None
        (reason,) = Cpp().why_not(None)
        assert "_cpp was not built" in reason and "pip install" in reason
        assert "cpp" not in rka_fast.available_backends()
        with pytest.raises(ImportError, match="without its native part"):
            native.info_module.__wrapped__()
        (tmp_path / f"_cpp{native.SUFFIXES[0]}").write_bytes(b"not a library")
        native.load.cache_clear()
        (reason,) = Cpp().why_not(None)
        assert "could not be loaded" in reason
    finally:
        native.load.cache_clear()


@needs_library
def test_a_library_of_other_sources_is_a_reason(monkeypatch):
    """It has the version, and was built before an argument came."""
    assert Cpp().why_not(None) == []
    monkeypatch.setattr(loading, "SCHEMA", f"{loading.SCHEMA}, int? news")
    loading._stale.cache_clear()
    try:
        (reason,) = Cpp().why_not(None)
        assert str(native.find("_cpp")) in reason and "was built of other sources" in reason
        assert "build it again: pip install" in reason
        assert "cpp" not in rka_fast.available_backends()
        with pytest.raises(RuntimeError, match="backend 'cpp': .* was built of other sources"):
            loading.operators("_cpp")
    finally:
        loading._stale.cache_clear()


def test_a_checkout_finds_the_installed_libraries(monkeypatch, tmp_path):
    """Of the same version only."""
    site, library = tmp_path / "site", f"_cpp{native.SUFFIXES[0]}"
    for version, folder in ((rka_fast.__version__, site), ("0.0.0", tmp_path / "old")):
        package = folder / "rka_fast"
        package.mkdir(parents=True)
        (package / library).touch()
        metadata = folder / f"rka_fast-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: rka_fast\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "old"), str(site)])
    monkeypatch.setattr(native, "HERE", tmp_path / "nothing")
    assert native.find("_cpp") == (site / "rka_fast" / library).resolve()

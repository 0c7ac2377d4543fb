"""The compiled part: what was built, its noise, its threads, its kernels under sanitizers."""

import shutil
import subprocess
from pathlib import Path

import ops_cases
import pytest
import torch

from rka_fast import available_backends, info, kernelized_attention
from rka_fast.ops import native
from rka_fast.ops.reference import philox

CSRC = Path(__file__).resolve().parents[1] / "csrc"
HAS_COMPILER = shutil.which("c++") is not None

built = pytest.mark.skipif(not HAS_COMPILER, reason="no C++ compiler: nothing could be built")


@built
def test_a_compiler_means_the_backend_is_there():
    assert "cpp" in available_backends(), native.why_not("_cpu")
    assert native.build_info()["compiler"]
    assert native.cpu_instructions() in ("plain", "avx2", "avx512")
    assert any(line.split()[:2] == ["cpp", "available"] for line in info.lines())


@built
@pytest.mark.parametrize("seed", [0, 1, 2**40 + 3, -1, -(2**63)])
def test_noise_words_are_the_references(seed):
    words = philox.words(torch.tensor(seed), 2, 2, 3, 2, 2)
    for b, h, t, g in [(0, 0, 0, 0), (1, 1, 2, 1), (1, 0, 0, 1)]:
        compiled = native.info_module().philox_words(seed % 2**64, g, t, b * 2 + h, 2)
        assert tuple(words[b, h, t, g].tolist()) == tuple(compiled)


@built
def test_the_number_of_threads_changes_no_bit():
    inputs = ops_cases.random_inputs(
        batch=7, n=33, dtype=torch.float32, bias=True, requires_grad=True
    )
    leaves = list(ops_cases.differentiable(inputs).values())
    results = []
    threads = torch.get_num_threads()
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        output = kernelized_attention(**inputs, is_causal=True, seed=1, backend="cpp")
        results.append((output, *torch.autograd.grad(output.square().sum(), leaves)))
    torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


@built
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 50, 65])
def test_odd_lengths_are_within_twice_the_references_error(n):
    """Float32 output and gradients against the float64 reference.

    Some gradients are a handful of numbers, so one draw of inputs says little about how far
    rounding moves them: both errors are the worst, relative to the largest entry, of five draws.
    """
    errors = torch.stack([relative_errors(n, seed) for seed in range(5)]).amax(0)
    rounding = 8 * torch.finfo(torch.float32).eps
    assert (errors[0] <= 2 * errors[1] + rounding).all(), errors


def relative_errors(n, seed):
    """Of output and gradients: row 0 of cpp, row 1 of eager PyTorch in float32."""
    exact = ops_cases.random_inputs(n=n, width=8, seed=seed, requires_grad=True)

    def run(dtype, backend):
        leaves = {
            name: x.detach().float().to(dtype).requires_grad_()
            for name, x in ops_cases.differentiable(exact).items()
        }
        inputs = ops_cases.replace(exact, leaves)
        output = kernelized_attention(**inputs, is_causal=True, seed=1, backend=backend)
        return output, *torch.autograd.grad(output.square().sum(), list(leaves.values()))

    truth = run(torch.float64, "reference")

    def error(actual):
        return [
            ((x - y).abs().max() / y.abs().max().clamp_min(1e-30)).item()
            for x, y in zip(actual, truth, strict=True)
        ]

    return torch.tensor([error(run(torch.float32, name)) for name in ("cpp", "reference")])


def test_what_was_not_built_is_explained():
    reasons = native.why_not("_nonsense")
    assert len(reasons) == 1 and "_nonsense was not built" in reasons[0]


@built
def test_kernels_under_sanitizers(tmp_path):
    """The header-only kernels in a program of their own, with address and UB sanitizers."""
    program = tmp_path / "kernels"
    subprocess.run(
        ["c++", "-std=c++20", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         f"-I{CSRC}", f"-I{CSRC / 'cpu'}", str(CSRC / "tests" / "test_kernels.cpp"), "-o", program],
        check=True,
    )  # fmt: skip
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr

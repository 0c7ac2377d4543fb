"""The C++ backend beyond the operator's own suite: noise, precision, threads, views."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import rka_fast
from rka_fast import info, native
from rka_fast.ops.arguments import DIFFERENTIABLE, Arguments
from rka_fast.ops.native.cpp import Cpp
from rka_fast.ops.reference import philox
from rka_fast.ops.reference.attention import attention, attention_backward

ROOT = Path(rka_fast.__file__).parents[1]
needs_library = pytest.mark.skipif(
    bool(native.why_not("_cpp")), reason=f"C++ backend: {'; '.join(native.why_not('_cpp'))}"
)
CPP = Cpp()
# Gradients that are sums over all keys or pairs of keys, which may cancel.
SUMS = ("concentration", "mixture", "scale_bias", "gate")


def arguments(
    batch=2, heads=2, n=17, width=8, keys=None, dtype=torch.float32, catalogue=None, **options
):
    """Seeded arguments of the schema; `options` replace fields.

    Items are all different, or drawn from a `catalogue` so small that they repeat.
    """
    rng = torch.Generator().manual_seed(n)
    keys = keys or n

    def new(*shape):
        return torch.randn(*shape, generator=rng).to(dtype)

    def pair():
        return new(batch, heads, n, width), new(batch, heads, keys, width)

    if catalogue is None:
        items = torch.arange(batch * keys).view(batch, keys)
    else:
        items = torch.randint(0, catalogue, (batch, keys), generator=rng)
    table = new(batch * keys, 7)
    bought = (torch.rand(batch, 30, batch * keys, generator=rng) < 0.2).float()
    bought = bought.gather(2, items[:, None].expand(-1, 30, -1))
    location, scale, shape = pair(), pair(), pair()
    return Arguments(
        *location,
        new(batch, heads, keys, width + 3),
        scale_query=scale[0],
        scale_key=scale[1],
        scale_bias=new(heads).float(),
        shape_query=shape[0],
        shape_key=shape[1],
        features=table[items],
        concentration=torch.tensor([2.0, 1.5]),
        mixture=torch.rand(batch, 3, generator=rng).softmax(-1),
        gate=new(batch, 7).exp(),
        cooccurrence=bought.mT @ bought,
        seed=torch.tensor(2**40 + n),
        causal=True,
        mode="sample",
        activation="leaky_relu",
    )._replace(**options)


def everything(backend, a: Arguments, grad):
    """The output and every gradient by name; `backend` is (forward, backward)."""
    needs = [i for i, name in enumerate(DIFFERENTIABLE) if getattr(a, name) is not None]
    results = [backend[0](a), *backend[1](grad, needs, a)]
    return dict(zip(["output", *(DIFFERENTIABLE[i] for i in needs)], results, strict=True))


REFERENCE = attention, attention_backward
NATIVE = CPP.forward, CPP.backward


def in_float64(a: Arguments) -> Arguments:
    return a._replace(
        **{
            name: x.double()
            for name, x in a._asdict().items()
            if isinstance(x, torch.Tensor) and x.is_floating_point()
        }
    )


def check_precision(a: Arguments):
    """Over four draws: no worse than twice the eager error plus roundings of the result.

    Errors are root mean squares, of which the largest of one draw would be mostly chance. A
    gradient that sums over the keys has the rounding of such a sum.
    """
    ours, eager = {}, {}
    for seed in range(4):
        a = a._replace(seed=torch.tensor(seed))
        grad = torch.randn(*a.query.shape[:3], a.value.shape[-1]).to(a.value.dtype)
        exact = everything(REFERENCE, in_float64(a), grad.double())
        for backend, errors in ((NATIVE, ours), (REFERENCE, eager)):
            for name, x in everything(backend, a, grad).items():
                own = a.value if name == "output" else getattr(a, name)
                assert x.dtype == own.dtype and x.shape == exact[name].shape, name
                size = exact[name].norm().clamp_min(1e-30)
                errors.setdefault(name, []).append((x.double() - exact[name]).norm() / size)
    for name in eager:
        error, budget = (torch.stack(e[name]).square().mean().sqrt() for e in (ours, eager))
        dtype = a.value.dtype if name == "output" else getattr(a, name).dtype
        roundings = a.key.shape[2] if name in SUMS else 4
        budget = 2 * budget + roundings * torch.finfo(dtype).eps
        assert error <= budget, f"{name}: error {error:.2e}, budget {budget:.2e}"


@needs_library
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 50, 65, 200])
@pytest.mark.parametrize("heads", [1, 3])
def test_precision_at_odd_lengths(n, heads):
    check_precision(arguments(n=n, heads=heads, width=13))


@needs_library
def test_precision_with_repeated_items():
    """K is then singular but for its jitter, which multiplies every rounding."""
    check_precision(arguments(batch=16, n=30, catalogue=10, jitter=1e-2))
    a = in_float64(arguments(n=30, catalogue=10))
    grad = torch.randn(2, 2, 30, 11, dtype=torch.float64)
    expected, actual = everything(REFERENCE, a, grad), everything(NATIVE, a, grad)
    for name, e in expected.items():
        torch.testing.assert_close(actual[name], e, rtol=1e-8, atol=1e-9, msg=name)


@needs_library
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    "mask", [None, (2, 2, 33, 33), (1, 2, 33, 33), (2, 1, 33, 33), (1, 1, 1, 33), (2, 1, 33, 1)]
)
def test_precision_with_masks_padding_and_bias(mask, causal):
    padding = torch.zeros(2, 33, dtype=torch.bool)
    padding[0, :18] = padding[1, 7:9] = padding[1, 30:] = True
    options = {"padding": padding, "causal": causal, "dropout": 0.25}
    if mask is not None:
        options |= {"mask": torch.rand(mask) < 0.7, "bias": torch.randn(mask)}
    check_precision(arguments(n=33, **options))


@needs_library
@pytest.mark.parametrize("mode", ["sample", "mean", "location"])
@pytest.mark.parametrize("activation", ["identity", "leaky_relu", "relu", "tanh"])
def test_precision_of_modes_and_activations(mode, activation):
    check_precision(arguments(n=20, mode=mode, activation=activation))


@needs_library
@pytest.mark.parametrize(
    "missing", [("gate",), ("cooccurrence",), ("shape_query", "shape_key"), ("scale_bias",)]
)
@pytest.mark.parametrize("mode", ["sample", "mean"])
def test_precision_with_pieces_missing(missing, mode):
    check_precision(arguments(n=20, mode=mode, **dict.fromkeys(missing)))


@needs_library
def test_precision_across_attention():
    a = arguments(n=21, keys=37, causal=False, cooccurrence=None)
    check_precision(a)
    check_precision(a._replace(mixture=a.mixture[:1]))


@needs_library
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_of_half_types(dtype):
    check_precision(arguments(n=40, dtype=dtype))
    # As under autocast: the features stay in float32.
    a = arguments(n=40, dtype=dtype)
    check_precision(a._replace(features=a.features.float(), gate=a.gate.float()))


@needs_library
def test_padding_may_hold_anything():
    padding = torch.zeros(2, 24, dtype=torch.bool)
    padding[0, :10] = padding[1, 20:] = True
    clean = arguments(n=24, padding=padding, causal=False)
    poison = clean._replace(
        **{
            name: getattr(clean, name).masked_fill(padding[:, None, :, None], torch.nan)
            for name in ("key", "value", "scale_key", "shape_key")
        },
        features=clean.features.masked_fill(padding[..., None], torch.nan),
    )
    grad = torch.randn(2, 2, 24, 11)
    expected, actual = everything(NATIVE, clean, grad), everything(NATIVE, poison, grad)
    for name, e in expected.items():
        assert torch.equal(actual[name], e), name


@needs_library
def test_nan_reaches_the_output():
    a = arguments()
    query = a.query.clone()
    query[1, 0, 5] = torch.nan
    output = CPP.forward(a._replace(query=query))
    assert output[1, 0, 5].isnan().all()
    assert not output[0].isnan().any() and not output[1, 1].isnan().any()
    features = a.features.clone()
    features[1, 3] = torch.nan
    assert CPP.forward(a._replace(features=features))[1].isnan().all()


@needs_library
def test_the_number_of_threads_changes_no_bit():
    padding = torch.zeros(7, 40, dtype=torch.bool)
    padding[2, :30] = padding[5, :] = True
    a = arguments(batch=7, n=40, padding=padding, bias=torch.randn(1, 1, 40, 40), dropout=0.1)
    grad = torch.randn(7, 2, 40, 11)
    threads = torch.get_num_threads()
    try:
        results = []
        for number in (1, 2, 3, 5):
            torch.set_num_threads(number)
            results.append(everything(NATIVE, a, grad))
    finally:
        torch.set_num_threads(threads)
    for name, first in results[0].items():
        assert all(torch.equal(other[name], first) for other in results[1:]), name


@needs_library
def test_views_need_no_copy():
    """Query, key and the rest as slices of one projection, batch and heads transposed."""
    a = arguments(n=19)
    names = ("query", "key", "scale_query", "scale_key", "shape_query", "shape_key")
    packed = torch.stack([getattr(a, name) for name in names], dim=3)  # (B, H, n, 6, width)
    packed = packed.permute(2, 0, 1, 3, 4).contiguous().permute(1, 2, 0, 3, 4)
    views = a._replace(**{name: packed[:, :, :, i] for i, name in enumerate(names)})
    views = views._replace(
        features=a.features.mT.contiguous().mT, mixture=a.mixture[:1].expand(2, -1)
    )
    a = a._replace(mixture=a.mixture[:1].repeat(2, 1))
    grad = torch.randn(2, 19, 2, 11).transpose(1, 2)
    expected = everything(NATIVE, a, grad.contiguous())
    actual = everything(NATIVE, views, grad)
    for name, e in expected.items():
        assert torch.equal(actual[name], e), name


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


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["plain", "avx2", "avx512"])
def test_every_instruction_set(instructions):
    """A part of this file again on each; a set that the processor lacks falls back to a lower."""
    if os.environ.get("RKA_FAST_CPP"):
        pytest.skip("already inside")
    selected = "lengths and (2 or 15 or 50) or masks and mask1 or noise or half or threads"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, "-q", "-k", selected, "-p", "no:cacheprovider"],
        cwd=ROOT,
        env={**os.environ, "RKA_FAST_CPP": instructions},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]


@needs_library
def test_features_may_be_tiny():
    """1 / norm is finite, the product of two is not; K is that of the features before scaling.

    Squares of 1e-40 are subnormal, of 16 bits: cosines are good to 1e-5.
    """
    a = arguments(n=24)
    scaled = a._replace(features=a.features * 1e-20)
    torch.testing.assert_close(CPP.forward(scaled), CPP.forward(a), rtol=1e-4, atol=1e-4)


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


def test_import_loads_no_library():
    code = (
        "import rka_fast\n"
        "maps = open('/proc/self/maps').read()\n"
        "assert '/_cpp.' not in maps and '/_cuda.' not in maps and '/_info.' not in maps"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc/self/maps")
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_missing_library_is_a_reason_and_not_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(native, "folders", lambda: [tmp_path])
    native.load.cache_clear()
    try:
        assert native.find("_cpp") is None
        (reason,) = CPP.why_not(None)
        assert "_cpp was not built" in reason and "pip install" in reason
        assert "cpp" not in rka_fast.available_backends()
        with pytest.raises(ImportError, match="without its native part"):
            native.info_module.__wrapped__()
        (tmp_path / f"_cpp{native.SUFFIXES[0]}").write_bytes(b"not a library")
        native.load.cache_clear()
        (reason,) = CPP.why_not(None)
        assert "could not be loaded" in reason
    finally:
        native.load.cache_clear()


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

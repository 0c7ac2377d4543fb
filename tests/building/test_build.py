"""The build: wheels that outlive a torch upgrade, other processors, words on what is missing."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from support.slow import slow
from torch.utils.cpp_extension import include_paths

from rka_fast import native
from rka_fast.version import __version__

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which(os.environ.get("CXX", "c++").split()[0])
from_source = pytest.mark.skipif(
    not (ROOT / "setup.py").is_file() or COMPILER is None,
    reason="needs the source tree and a C++ compiler",
)
CROSS = shutil.which("aarch64-linux-gnu-g++")

# Run by a Python with another torch, with nothing of rka_fast but the unpacked wheel.
USE = """
import sys, torch
from rka_fast import native
from rka_fast.ops.arguments import Arguments
from rka_fast.ops.native.cpp import Cpp
from rka_fast.ops.reference.attention import attention
built, seed = native.build_info()["torch"], torch.tensor(3)
assert not native.why_not("_cpp"), native.why_not("_cpp")
draw = lambda: torch.randn(2, 2, 9, 4)
a = Arguments(
    draw(), draw(), draw(), None, draw(), draw(), torch.randn(2), draw(), draw(),
    torch.randn(2, 9, 4), torch.ones(2), torch.full((2, 3), 1 / 3), torch.rand(2, 4),
    cooccurrence=torch.eye(9).expand(2, 9, 9) * 5, seed=seed, causal=True, mode="sample",
)
torch.testing.assert_close(Cpp().forward(a), attention(a), rtol=1e-4, atol=1e-5)
needs = [a._fields.index(name) for name in ("query", "scale_bias", "features")]
grads = Cpp().backward(torch.ones(2, 2, 9, 4), needs, a)
assert all(torch.isfinite(g).all() for g in grads)
print(built, "->", torch.__version__)
"""


def setup(tmp_path, *command, **environment):
    """setup.py in a copy of the source tree, so that nothing is left in it."""
    copy = tmp_path / "source"
    if not copy.exists():
        ignore = shutil.ignore_patterns(
            "*.so", "build", ".git", "*.egg-info", "runs", "__pycache__"
        )
        shutil.copytree(ROOT, copy, ignore=ignore)
    result = subprocess.run(
        [sys.executable, *command], cwd=copy, env={**os.environ, **environment},
        capture_output=True, text=True,
    )  # fmt: skip
    return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The source distribution of this tree."""
    tmp_path = tmp_path_factory.mktemp("sdist")
    build = "import setuptools.build_meta as build; build.build_sdist('dist')"
    code, output = setup(tmp_path, "-c", build)
    assert code == 0, output[-3000:]
    return tmp_path / "source" / "dist" / f"rka_fast-{__version__}.tar.gz"


@pytest.fixture(scope="module")
def site(sdist, tmp_path_factory) -> Path:
    """A folder into which the wheel that pip builds of the source distribution was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "-q"]
    own = ["--no-build-isolation", "--no-deps"]
    without_cuda = {**os.environ, "RKA_FAST_CUDA": "0"}
    subprocess.run([*pip, "wheel", *own, "-w", folder, sdist], env=without_cuda, check=True)
    (wheel,) = folder.glob("rka_fast-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", wheel], check=True)
    return folder / "site"


@pytest.mark.slow
@from_source
def test_the_sdist_has_all_sources(sdist):
    """What git has, without its settings and CI."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    assert {name for name in tracked if not name.startswith(".")} <= names
    assert not [name for name in names if name.endswith((".so", ".pyc"))]


@from_source
@pytest.mark.slow
def test_the_wheel_works_away_from_the_sources(site, tmp_path):
    code = (
        "import rka_fast; from rka_fast.train import main; print(rka_fast.__file__)\n"
        "raise SystemExit(main(['--epochs', '1', '--width', '8', '--device', 'cpu']))"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "RKA_FAST_BACKEND": "cpp"}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[0] == str(site / "rka_fast" / "__init__.py")
    assert (site / "rka_fast" / "py.typed").is_file()
    assert list((tmp_path / "runs").glob("*/result.json"))


@from_source
@pytest.mark.slow
def test_a_wheel_serves_another_torch(site, tmp_path):
    """Set RKA_FAST_OTHER_PYTHON to a Python of the same version with another torch >= 2.11."""
    other = os.environ.get("RKA_FAST_OTHER_PYTHON")
    if other is None:
        pytest.skip("RKA_FAST_OTHER_PYTHON is not set")
    code = "import torch; print(torch.__version__)"
    version = subprocess.run([other, "-c", code], capture_output=True, text=True, check=True).stdout
    assert version.strip() != torch.__version__, "RKA_FAST_OTHER_PYTHON has the same torch"
    result = subprocess.run(
        [other, "-c", USE], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.strip() == f"{torch.__version__} -> {version.strip()}"


@from_source
@pytest.mark.slow
@pytest.mark.parametrize("source", sorted(ROOT.glob("csrc/cpp/*.cpp")), ids=lambda path: path.name)
def test_compiles_for_arm(source):
    """Syntax and types alone: nothing here could run it."""
    if CROSS is None:
        pytest.skip("there is no aarch64-linux-gnu-g++")
    torch_headers = [f"-I{path}" for path in include_paths()]
    flags = ["-std=c++20", "-O3", "-w", "-Werror=narrowing", "-fsyntax-only", "-fno-math-errno"]
    stable = "-DTORCH_TARGET_VERSION=0x020b000000000000"
    subprocess.run([CROSS, *flags, stable, *torch_headers, source], check=True)


@pytest.mark.parametrize("name", ["_cpp", "_cuda"])
def test_libraries_use_only_the_stable_abi(name):
    """No symbol of torch's C++ interface, which changes from version to version."""
    path, nm = native.find(name), shutil.which("nm")
    if path is None or nm is None:
        pytest.skip(f"{name} was not built, or there is no nm")
    symbols = subprocess.run(
        [nm, "-D", "--undefined-only", path], capture_output=True, text=True, check=True
    ).stdout
    assert "aoti_torch_" in symbols
    assert not re.findall(r"_ZN?K?(?:2at|3c10|5torch)\w*", symbols)


@from_source
@pytest.mark.slow
def test_installs_without_a_compiler(tmp_path):
    code, output = setup(
        tmp_path, "setup.py", "-q", "build", CXX="no-such-compiler", RKA_FAST_CUDA=""
    )
    assert code == 0, output[-3000:]
    assert (
        "there is no working C++ compiler (no-such-compiler); the backends that need it are"
        in output
    )
    built = tmp_path / "source" / "build"
    assert list(built.rglob("backends.py")) and not list(built.rglob("*.so"))


@from_source
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        slow({"RKA_FAST_CUDA": "1", "CUDA_HOME": "/no/toolkit"}, "no nvcc in /no/toolkit/bin"),
        slow({"RKA_FAST_CUDA": "1", "CXX": "no-such-compiler"}, "there is no working C++ compiler"),
        slow({"RKA_FAST_CUDA": "1", "CXX": "false"}, "there is no working C++ compiler (false)"),
        slow({"RKA_FAST_CUDA": "yes"}, "RKA_FAST_CUDA: expected 0 or 1, got 'yes'"),
    ],
)
def test_the_build_says_what_is_missing(tmp_path, environment, message):
    code, output = setup(tmp_path, "setup.py", "-q", "build", **environment)
    assert code != 0
    assert message in output


@from_source
@pytest.mark.slow
def test_cuda_is_for_this_torch_or_left_out(tmp_path):
    """A toolkit of another major version is refused when CUDA is asked for."""
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 3.1, V3.1.0'\n")
    nvcc.chmod(0o755)
    code, output = setup(
        tmp_path, "setup.py", "-q", "build", RKA_FAST_CUDA="1", CUDA_HOME=str(tmp_path / "toolkit")
    )
    assert code != 0
    assert "nvcc is for CUDA 3, torch for" in output


@from_source
@pytest.mark.slow
@pytest.mark.parametrize("insist", [False, True])
def test_cuda_that_does_not_compile_leaves_the_rest(tmp_path, insist):
    """An nvcc of the right version that fails on every file."""
    if torch.version.cuda is None:
        pytest.skip("this torch is for the CPU only: no CUDA code is compiled for it")
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    version = f"release {torch.version.cuda}, V{torch.version.cuda}.0"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, {version}'\n[ $1 = --version ]\n")
    nvcc.chmod(0o755)
    code, output = setup(
        tmp_path, "setup.py", "build_ext", "--inplace",
        RKA_FAST_CUDA="1" if insist else "", CUDA_HOME=str(tmp_path / "toolkit"), CUDACXX=str(nvcc),
    )  # fmt: skip
    assert "CUDA code could not be compiled: nvcc" in output, output[-3000:]
    assert (code != 0) == insist, output[-3000:]
    built = {path.name.split(".")[0] for path in (tmp_path / "source" / "rka_fast").glob("*.so")}
    if insist:
        assert "_cuda" not in built
        return
    assert built == {"_info", "_cpp"}
    say = (
        "from rka_fast import native; print(native.build_info()['no_cuda'], native.why_not('_cpp'))"
    )
    said = subprocess.run(
        [sys.executable, "-c", say], cwd=tmp_path / "source", capture_output=True, text=True
    )
    assert said.stdout.startswith("nvcc of CUDA") and said.stdout.endswith("failed ()\n"), said


@from_source
@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["plain", "avx2", "avx512"])
def test_the_kernels_under_sanitizers(tmp_path, instructions):
    """Functions against libm, factor and gradient, and whole calls with poisoned scratch memory."""
    available = ("plain", "avx2", "avx512")
    if native.cpp_instructions() and available.index(instructions) > available.index(
        native.cpp_instructions()
    ):
        pytest.skip(f"this processor has no {instructions}")
    program = tmp_path / "test_kernels"
    define = [] if instructions == "plain" else [f"-DRKA_TEST_{instructions.upper()}"]
    flags = "-std=c++17 -O1 -g -w -fno-math-errno -fno-trapping-math -fsanitize=address,undefined"
    source = ROOT / "csrc" / "tests" / "test_kernels.cpp"
    subprocess.run(
        [COMPILER, *flags.split(), "-fno-sanitize-recover=all", *define, source, "-o", program],
        check=True,
    )
    result = subprocess.run([program], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "all passed" in result.stdout


@from_source
@pytest.mark.parametrize("form", ["link", "wrapper"])
def test_nvcc_is_asked_for_its_toolkit(tmp_path, monkeypatch, form):
    """On the PATH stands a link to nvcc, or a script that runs it; the toolkit is elsewhere."""
    pytest.importorskip("setuptools")
    toolkit, path = tmp_path / "toolkit", tmp_path / "path"
    nvcc = toolkit / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    path.mkdir()
    # Like the real one, it knows its toolkit by its own place, and through a link it does not.
    nvcc.write_text(
        "#!/bin/sh\n"
        f"echo 'Cuda compilation tools, release {(torch.version.cuda or '12.0')}, V'\n"
        f"[ \"$0\" = '{nvcc}' ] && echo '#$ TOP={toolkit}' >&2\ntrue\n"
    )
    nvcc.chmod(0o755)
    if form == "link":
        (path / "nvcc").symlink_to(nvcc)
    else:
        (path / "nvcc").write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n')
        (path / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(torch.version, "cuda", torch.version.cuda or "12.0")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("setuptools.setup", lambda **arguments: None)
    source = runpy.run_path(str(ROOT / "setup.py"))
    assert source["cuda_toolkit"]() == (str(toolkit), "")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "other"))
    assert source["cuda_toolkit"]() == (None, f"no nvcc in {tmp_path / 'other'}/bin")

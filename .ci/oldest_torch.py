#!/usr/bin/env python3
"""Does the native code still build and link against the oldest torch that pyproject.toml names?

    .ci/oldest_torch.py [WHEEL]

Without a wheel of that torch it is downloaded (about 500 MB) and removed again. The sources are
compiled against its headers, and every symbol of torch that they use has to be exported by its
libraries. kernels.cu includes nothing of torch. Exit status 1 for a fault, 2 if there is nothing
to check with: a compiler, nm, or the wheel.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEADERS = tuple(
    f"torch/include/torch/{x}" for x in ("csrc/stable", "headeronly", "csrc/inductor/aoti_torch")
)
LIBRARIES = {"cpp": ("libtorch_cpu.so",), "cuda": ("libtorch_cpu.so", "libtorch_cuda.so")}
FLAGS = {"cpp": [], "cuda": ["-DUSE_CUDA"]}


def oldest() -> str:
    """The version in pyproject.toml; setup.py has to target the same."""
    (version,) = set(re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text()))
    if target(version) not in (ROOT / "setup.py").read_text():
        raise SystemExit(f"setup.py: expected {target(version)}, as pyproject.toml has {version}")
    return version


def target(version: str) -> str:
    major, minor = map(int, version.split("."))
    return f"-DTORCH_TARGET_VERSION={(major << 56) | (minor << 48):#018x}"


def cannot(reason: str) -> None:
    print(f"oldest torch: not checked: {reason}")
    raise SystemExit(2)


def download(version: str, folder: Path) -> Path:
    """The wheel for this Python, of whichever build the index has."""
    for wanted in (f"torch=={version}.0+cpu", f"torch=={version}.0"):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, wanted]
        if subprocess.run(command, capture_output=True).returncode == 0:
            return next(folder.glob("torch-*.whl"))
    cannot(f"pip finds no torch {version}.0 for this Python")


def symbols(nm: str, path: Path, *flags: str) -> set[str]:
    output = subprocess.run([nm, *flags, path], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].split("@")[0] for line in output.splitlines() if line.strip()}


class Oldest:
    """A torch unpacked from its wheel: headers, and what its libraries export."""

    def __init__(self, wheel: Path, folder: Path, nm: str) -> None:
        with zipfile.ZipFile(wheel) as archive:
            there = archive.namelist()
            libraries = {f"torch/lib/{x}" for many in LIBRARIES.values() for x in many}
            libraries &= set(there)
            archive.extractall(folder, [n for n in there if n.startswith(HEADERS)])
            archive.extractall(folder, libraries)
        self.folder, self.nm = folder, nm
        self.exported = {
            Path(x).name: symbols(nm, folder / x, "-D", "--defined-only") for x in libraries
        }

    def compiles(self, source: Path, compiler: str, version: str) -> bool:
        flags = ["-std=c++20", "-c", "-O0", "-w", "-fPIC", *FLAGS[source.parent.name]]
        include = ["-I", self.folder / "torch/include"]
        command = [compiler, *flags, target(version), *include, source, "-o", self.object]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(f"{source.relative_to(ROOT)}: does not compile against torch {version}")
            print(result.stderr[:3000])
        return result.returncode == 0

    def links(self, source: Path) -> bool:
        libraries = LIBRARIES[source.parent.name]
        if missing := set(libraries) - self.exported.keys():
            of = source.relative_to(ROOT)
            print(f"{of}: symbols not checked: no {', '.join(missing)} in the wheel")
            return True
        used = {s for s in symbols(self.nm, self.object, "-u") if "torch" in s}
        absent = used - set().union(*(self.exported[x] for x in libraries))
        print(
            f"{source.relative_to(ROOT)}: of {len(used)} symbols of torch {len(absent)} are missing"
        )
        print(*sorted(absent), sep="\n", end="\n" if absent else "")
        return not absent

    @property
    def object(self) -> Path:
        return self.folder / "source.o"


def main() -> None:
    version = oldest()
    compiler, nm = shutil.which("c++"), shutil.which("nm")
    if compiler is None or nm is None:
        cannot("needs a C++ compiler and nm")
    with tempfile.TemporaryDirectory() as name:
        wheel = Path(sys.argv[1]) if len(sys.argv) > 1 else download(version, Path(name))
        if not wheel.name.startswith(f"torch-{version}."):
            cannot(f"expected a wheel of torch {version}, got {wheel.name}")
        torch = Oldest(wheel, Path(name), nm)
        sources = [x for kind in FLAGS for x in sorted((ROOT / "csrc" / kind).glob("*.cpp"))]
        passed = [torch.compiles(x, compiler, version) and torch.links(x) for x in sources]
    raise SystemExit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()

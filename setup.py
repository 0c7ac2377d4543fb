"""The compiled part of the package; its metadata is in pyproject.toml.

`_info` is pybind11; `_cpp` and `_cuda` use LibTorch's stable ABI: one build for all torch >= 2.11.
What cannot be compiled is left out, unless RKA_FAST_CUDA=1 insists; RKA_FAST_CUDA=0 leaves CUDA
out. TORCH_CUDA_ARCH_LIST, CUDA_HOME and CXX are respected.
"""

import os
import re
import shutil
import subprocess
from glob import glob
from pathlib import Path

import torch
from setuptools import Extension, setup

NATIVE = "rka_fast."
os.chdir(Path(__file__).parent)
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11
DEVICE = [STABLE_ABI, "-DUSE_CUDA"]
# No -ffast-math: a NaN has to reach the output.
FLAGS = ["-O3", "-fvisibility=hidden", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math"]
WATCHED = {"language": "c++", "depends": glob("csrc/**/*.h", recursive=True)}
STABLE = {"py_limited_api": True, "depends": WATCHED["depends"]}


def cuda_toolkit() -> tuple[str | None, str]:
    """The toolkit's folder, or None and why there is none for this torch."""
    home = os.environ.get("CUDA_HOME")
    nvcc = shutil.which(os.path.join(home, "bin", "nvcc") if home else "nvcc")
    if nvcc is None:
        return None, f"no nvcc in {home + '/bin' if home else 'PATH, and CUDA_HOME is not set'}"
    found = re.search(r"release (\d+)", output_of(nvcc, "--version"))
    wanted = (torch.version.cuda or "").split(".")[0]
    if found is None or found[1] != wanted:
        return None, f"nvcc is for CUDA {found and found[1]}, torch for {wanted or 'the CPU only'}"
    if home is None:  # nvcc may be a link or a wrapper outside its toolkit: ask it
        dry_run = output_of(os.path.realpath(nvcc), "--dryrun", "-x", "cu", os.devnull)
        top = re.search(r"^#\$ TOP=(.+)$", dry_run, re.MULTILINE)
        if top is None:
            return None, f"{nvcc} --dryrun does not name its toolkit; set CUDA_HOME"
        home = os.path.realpath(top[1].strip().strip('"'))
    return home, ""


def output_of(*command: str) -> str:
    """What the command prints, or "" where it cannot be run or fails."""
    try:
        return subprocess.check_output(command, stderr=subprocess.STDOUT, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""


def give_up(reason: str, choice: str) -> None:
    """Leave CUDA out and say why; stop where it was insisted on."""
    if choice == "1":
        raise SystemExit(f"RKA_FAST_CUDA=1, but {reason}")
    print(f"rka_fast: {reason}; the backends that need it are left out")


def cuda_extension(choice: str, facts: dict[str, str]) -> list[Extension]:
    """The CUDA library, or none; notes in `facts` what it is built with, or why it is not."""
    home, facts["NO_CUDA"] = (None, "RKA_FAST_CUDA=0") if choice == "0" else cuda_toolkit()
    if home is None:
        give_up(f"CUDA code cannot be compiled: {facts['NO_CUDA']}", choice)
        return []
    os.environ["CUDA_HOME"] = home  # read when cpp_extension is imported
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", "8.0 8.6 8.9 9.0+PTX")
    from torch.utils.cpp_extension import CUDAExtension

    facts["CUDA"] = torch.version.cuda
    facts["ARCHITECTURES"] = os.environ.get("TORCH_CUDA_ARCH_LIST", "of this machine's GPU")
    flags = {"cxx": [*FLAGS, *DEVICE], "nvcc": ["-O3", *DEVICE]}
    sources = sorted(glob("csrc/cuda/*.cu") + glob("csrc/cuda/*.cpp"))
    return [CUDAExtension(NATIVE + "_cuda", sources, extra_compile_args=flags, **STABLE)]


def info_macros(facts: dict[str, str]) -> list[tuple[str, str]]:
    """The facts as macros for csrc/info.cpp."""
    return [(f"RKA_{name}", f'"{fact}"') for name, fact in facts.items()]


def build() -> dict:
    """Arguments of setup(): extensions and how to build them, or none without a compiler."""
    choice = os.environ.get("RKA_FAST_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"RKA_FAST_CUDA: expected 0 or 1, got {choice!r}")
    compiler = os.environ.get("CXX", "c++")
    if not output_of(*compiler.split(), "--version"):
        give_up(f"there is no working C++ compiler ({compiler})", choice)
        return {}
    facts = {"TORCH": torch.__version__} | dict.fromkeys(("CUDA", "ARCHITECTURES", "NO_CUDA"), "")
    cuda = cuda_extension(choice, facts)  # first: it decides CUDA_HOME
    import pybind11
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    include, macros = pybind11.get_include(), info_macros(facts)
    info = Extension(NATIVE + "_info", ["csrc/info.cpp"], [include], macros, **WATCHED)
    flags, sources = [*FLAGS, STABLE_ABI], sorted(glob("csrc/cpp/*.cpp"))
    cpu = CppExtension(NATIVE + "_cpp", sources, extra_compile_args=flags, **STABLE)

    class Build(BuildExtension):
        """CUDA code that does not compile leaves the rest standing, unless it was asked for."""

        def build_extension(self, extension: Extension) -> None:
            try:
                super().build_extension(extension)
            except Exception as error:
                if extension not in cuda:
                    raise
                reason = f"nvcc of CUDA {facts['CUDA']} or its host compiler failed"
                print(f"rka_fast: {error}")
                give_up(f"CUDA code could not be compiled: {reason}; see above", choice)
                facts.update(CUDA="", ARCHITECTURES="", NO_CUDA=reason)
                info.define_macros = info_macros(facts)

    for extension in cuda:
        extension.optional = True  # no library need come of it
    return {"ext_modules": [*cuda, info, cpu], "cmdclass": {"build_ext": Build}}


setup(**build())

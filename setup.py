"""The compiled part of the package; its metadata is in pyproject.toml.

Three extensions: `_info` (pybind11), `_cpu` and `_cuda` (LibTorch's stable ABI, so that one build
serves every torch from 2.11 on). Without a C++ compiler the package installs with its Python
backends. RKA_FAST_CUDA=1 insists on CUDA, RKA_FAST_CUDA=0 leaves it out; TORCH_CUDA_ARCH_LIST,
CUDA_HOME and CXX are respected.
"""

import os
import re
import shutil
import subprocess
from glob import glob
from pathlib import Path

import torch
from setuptools import Extension, setup

NATIVE = "rka_fast.ops.native."
os.chdir(Path(__file__).parent)
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11
# No -ffast-math: a NaN has to reach the output.
FLAGS = ["-O3", "-fvisibility=hidden", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math"]
WATCHED = {"language": "c++", "depends": glob("csrc/**/*.h", recursive=True)}
STABLE = {"py_limited_api": True, "depends": WATCHED["depends"]}
ARCHITECTURES = "8.0 8.6 8.9 9.0+PTX"


def cuda_toolkit() -> tuple[str | None, str]:
    """The toolkit's folder, or None and why there is none for this torch."""
    home = os.environ.get("CUDA_HOME")
    nvcc = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc")
    if nvcc is None or not os.path.exists(nvcc):
        return None, f"no nvcc ({nvcc or 'not on the PATH, and CUDA_HOME is not set'})"
    found = re.search(r"release (\d+)", output_of(nvcc, "--version"))
    wanted = (torch.version.cuda or "").split(".")[0]
    if found is None or found[1] != wanted:
        return None, f"nvcc is for CUDA {found and found[1]}, torch for {wanted or 'the CPU only'}"
    if home is None:  # nvcc may be a link or a wrapper outside its toolkit: ask it
        dry_run = output_of(nvcc, "--dryrun", "-x", "cu", os.devnull)
        top = re.search(r"^#\$ TOP=(.+)$", dry_run, re.MULTILINE)
        if top is None:
            return None, f"{nvcc} --dryrun does not name its toolkit; set CUDA_HOME"
        home = os.path.realpath(top[1].strip().strip('"'))
    return home, ""


def output_of(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout + result.stderr


def cuda_extension() -> list[Extension]:
    choice = os.environ.get("RKA_FAST_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"RKA_FAST_CUDA: expected 0 or 1, got {choice!r}")
    sources = sorted(glob("csrc/cuda/*.cu") + glob("csrc/cuda/*.cpp"))
    home, reason = (None, "RKA_FAST_CUDA=0") if choice == "0" else cuda_toolkit()
    if home is None or not sources:
        reason = reason or "csrc/cuda is empty"
        if choice == "1":
            raise SystemExit(f"RKA_FAST_CUDA=1, but CUDA code cannot be compiled: {reason}")
        print(f"rka_fast: built without CUDA: {reason}")
        return []
    os.environ["CUDA_HOME"] = home  # read when cpp_extension is imported
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    from torch.utils.cpp_extension import CUDAExtension

    device = ["-O3", STABLE_ABI, "-DUSE_CUDA"]
    flags = {"cxx": [*FLAGS, STABLE_ABI, "-DUSE_CUDA"], "nvcc": device}
    return [CUDAExtension(NATIVE + "_cuda", sources, extra_compile_args=flags, **STABLE)]


def build() -> dict:
    """Arguments of setup(): extensions and how to build them, or none without a compiler."""
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None:
        if os.environ.get("RKA_FAST_CUDA") == "1":
            raise SystemExit(f"RKA_FAST_CUDA=1, but there is no C++ compiler ({compiler})")
        print(f"rka_fast: no C++ compiler ({compiler}); only the Python backends are installed")
        return {}
    cuda = cuda_extension()  # first: it decides CUDA_HOME
    import pybind11
    from torch.utils.cpp_extension import BuildExtension, CppExtension

    facts = {"TORCH": torch.__version__, "CUDA": "", "ARCHITECTURES": ""}
    if cuda:
        facts["CUDA"] = torch.version.cuda
        facts["ARCHITECTURES"] = os.environ.get("TORCH_CUDA_ARCH_LIST", "of this machine's GPU")
    macros = [(f"RKA_{name}", f'"{fact}"') for name, fact in facts.items()]
    include = [pybind11.get_include()]
    info = Extension(NATIVE + "_info", ["csrc/info.cpp"], include, macros, **WATCHED)
    flags, sources = [*FLAGS, STABLE_ABI], sorted(glob("csrc/cpu/*.cpp"))
    cpu = CppExtension(NATIVE + "_cpu", sources, extra_compile_args=flags, **STABLE)
    return {"ext_modules": [info, cpu, *cuda], "cmdclass": {"build_ext": BuildExtension}}


setup(**build())

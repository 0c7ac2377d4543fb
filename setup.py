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
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # torch 2.11
# No -ffast-math: a NaN has to reach the output.
FLAGS = ["-O3", "-fvisibility=hidden", "-Wno-psabi", "-fno-math-errno", "-fno-trapping-math"]
ARCHITECTURES = "8.0 8.6 8.9 9.0+PTX"


def cuda_toolkit() -> tuple[str | None, str]:
    """The toolkit's folder, or None and why there is none for this torch."""
    home = os.environ.get("CUDA_HOME")
    nvcc = os.path.join(home, "bin", "nvcc") if home else shutil.which("nvcc")
    if nvcc is None or not os.path.exists(nvcc):
        return None, f"no nvcc ({nvcc or 'not on the PATH, and CUDA_HOME is not set'})"
    release = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+)", release)
    wanted = (torch.version.cuda or "").split(".")[0]
    if found is None or found[1] != wanted:
        return None, f"nvcc is for CUDA {found and found[1]}, torch for {wanted or 'the CPU only'}"
    if home is None:  # nvcc may be a link or a wrapper outside its toolkit: ask it
        dry = subprocess.run(
            [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True
        )
        top = re.search(r"^#\$ TOP=(.+)$", dry.stderr + dry.stdout, re.MULTILINE)
        if top is None:
            return None, f"{nvcc} --dryrun does not name its toolkit; set CUDA_HOME"
        home = os.path.realpath(top[1].strip().strip('"'))
    return home, ""


def cuda_extension() -> list[Extension]:
    choice = os.environ.get("RKA_FAST_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"RKA_FAST_CUDA: expected 0 or 1, got {choice!r}")
    sources = sorted(glob("csrc/cuda/*.cu") + glob("csrc/cuda/*.cpp"))
    if choice == "0" or not sources:
        return []
    home, reason = cuda_toolkit()
    if home is None:
        if choice == "1":
            raise SystemExit(f"RKA_FAST_CUDA=1, but CUDA code cannot be compiled: {reason}")
        return []
    os.environ["CUDA_HOME"] = home  # read when cpp_extension is imported
    if not torch.cuda.is_available():
        os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ARCHITECTURES)
    from torch.utils.cpp_extension import CUDAExtension

    flags = {"cxx": [*FLAGS, STABLE_ABI, "-DUSE_CUDA"], "nvcc": ["-O3", STABLE_ABI, "-DUSE_CUDA"]}
    headers = glob("csrc/**/*.h", recursive=True)
    return [
        CUDAExtension(NATIVE + "_cuda", sources, extra_compile_args=flags, depends=headers,
                      py_limited_api=True)
    ]  # fmt: skip


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

    headers = glob("csrc/**/*.h", recursive=True)
    facts = {
        "TORCH": torch.__version__,
        "CUDA": torch.version.cuda if cuda else "",
        "ARCHITECTURES": os.environ.get("TORCH_CUDA_ARCH_LIST", "") if cuda else "",
    }
    flags = ["-O2", *(f'-DRKA_{name}="{value}"' for name, value in facts.items())]
    info = Extension(NATIVE + "_info", ["csrc/info.cpp"], include_dirs=[pybind11.get_include()],
                     depends=headers, language="c++", extra_compile_args=flags)  # fmt: skip
    cpu = CppExtension(NATIVE + "_cpu", sorted(glob("csrc/cpu/*.cpp")), depends=headers,
                       extra_compile_args=[*FLAGS, STABLE_ABI], py_limited_api=True)  # fmt: skip
    return {"ext_modules": [info, cpu, *cuda], "cmdclass": {"build_ext": BuildExtension}}


os.chdir(Path(__file__).parent)
setup(**build())

"""Registers, local memory and shared memory of the compiled CUDA kernels; no GPU is needed.

    python benchmarks/cuda_report.py [LIBRARY]

Exit status 1 if a kernel uses more local memory than it may: none, or some spilled registers
in the kernels on tensor cores, which live in registers.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from rka_fast import native

KB = 1024
CARDS = {"sm_86, sm_89": 99 * KB, "sm_80": 163 * KB, "sm_90": 227 * KB}
SPILLS = 128  # bytes, of the kernels on tensor cores
LONG = {  # kernels for long sequences
    "relate": "long: correlation",
    "prior": "long: prior",
    "factor": "long: factor",
    "long_forward": "long: attention",
    "long_backward": "long, backward: attention",
    "add_heads": "long, backward: heads",
    "divide_lower": "long, backward: factor, 1",
    "divide_whole": "long, backward: factor, 2",
    "correlation_backward": "long, backward: correlation",
    "add_shares": "long, backward: shares",
}
LENGTHS = (50, 64, 128, 200, 256, 512, 1024)


class Usage(NamedTuple):
    """One kernel for one architecture; stack and local in bytes per thread."""

    architecture: str
    kernel: str
    registers: int
    stack: int
    local: int

    @property
    def too_much(self) -> bool:
        strips = "rows" in self.kernel or self.kernel.startswith("long")  # live in registers
        return self.local > 0 or self.stack > (SPILLS if strips else 0)


def cuobjdump() -> str | None:
    """The tool on the PATH, in CUDA_HOME, or the copy that comes with Triton."""
    places = [Path(os.environ["CUDA_HOME"]) / "bin"] if "CUDA_HOME" in os.environ else []
    if (triton := importlib.util.find_spec("triton")) is not None:
        places.append(Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    found = (shutil.which("cuobjdump", path=str(place)) for place in places)
    return shutil.which("cuobjdump") or next(filter(None, found), None)


def usages(tool: str, library: Path) -> list[Usage]:
    """What `cuobjdump -res-usage` says of every kernel in the library."""
    text = subprocess.run(
        [tool, "-res-usage", str(library)], capture_output=True, text=True, check=True
    ).stdout
    result, architecture, kernel = [], "", ""
    for line in text.splitlines():
        if found := re.match(r"arch = (\w+)", line):
            architecture = found[1]
        elif found := re.search(r"Function \w*?\d+strip_(\w+)_kernelILi(\d)E", line):
            kernel = f"{found[1].replace('_', ' ')}, at most {8 * int(found[2])} rows"
        elif found := re.search(rf"Function \w*?\d({'|'.join(LONG)})_kernelE", line):
            kernel = LONG[found[1]]
        elif found := re.search(r"Function \w*?(forward|backward)_kernelILb([01])E", line):
            kernel = f"{found[1]}, L in {'shared' if found[2] == '1' else 'global'} memory"
        elif found := re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", line):
            result.append(Usage(architecture, kernel, *map(int, found.groups())))
    return result


def main() -> int:
    library = Path(sys.argv[1]) if len(sys.argv) > 1 else native.find("_cuda")
    tool = cuobjdump()
    if library is None or tool is None:
        print("needs " + ("the library _cuda" if library is None else "cuobjdump"))
        return 2
    kernels = usages(tool, library)
    print(f"{'architecture':<14}{'kernel':<30}{'registers':>10}{'stack':>7}{'local':>7}")
    for u in kernels:
        print(f"{u.architecture:<14}{u.kernel:<30}{u.registers:>10}{u.stack:>7}{u.local:>7}")
    torch.ops.load_library(library)
    layout = torch.ops.rka_fast_native.attention_cuda_layout
    print("\nforward and backward: shared memory of a block (KB), rows per tile, where L is")
    print((f"{'n':>5}  " + "".join(f"{card:<38}" for card in CARDS)).rstrip())
    for n in LENGTHS:
        line = f"{n:>5}  "
        for limit in CARDS.values():
            for backward in (False, True):
                used, rows, shared = layout(n, n, backward, limit)
                line += f"{used / KB:6.1f} {rows:>2} {'shared' if shared else 'global'}   "
            line += "  "
        print(line.rstrip())
    return int(not kernels or any(u.too_much for u in kernels))


if __name__ == "__main__":
    sys.exit(main())

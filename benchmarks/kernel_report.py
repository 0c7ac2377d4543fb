"""What the compiler makes of the Triton kernels, ahead of time; no GPU is needed.

    python benchmarks/kernel_report.py [--json FILE] [--n-block 64 128 1024]

Every kernel and configuration of the launch table for sm_80, sm_86, sm_90 and, where Triton's AMD
target compiles, gfx942, and for 64 keys in float32 its variants too; then the least time that named
cards need for the operations and bytes of a shape. Exit status 1 if a kernel for at most 64 keys
is beyond its budget or one needs more shared memory than its architecture has. The JSON is a list
with an entry for each row of the first table.
"""

import argparse
import itertools
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from cuda_report import cuobjdump

from rka_fast.ops.arguments import DIFFERENTIABLE, TIME_BUCKETS, Arguments

KB = 1024
NVIDIA = ("sm_80", "sm_86", "sm_90")
AMD = "gfx942"
# What a kernel is compiled for anew: with all parts ("whole"), with less, with masks, in tf32, with
# sizes that 16 does not divide, with relative times, for rows of a sequence with a scale of their
# own, and with a ready-made factor.
VARIANTS = ("whole", "plain", "mean", "masked", "tf32", "odd", "times", "rows", "ready")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int64: "*i64",
}


class Limits(NamedTuple):
    """Of a multiprocessor: bytes of shared memory for a program and in all, warps, programs."""

    shared: int
    shared_in_all: int
    warps: int
    programs: int


LIMITS = {
    "sm_80": Limits(163 * KB, 164 * KB, 64, 32),
    "sm_86": Limits(99 * KB, 100 * KB, 48, 16),
    "sm_90": Limits(227 * KB, 228 * KB, 64, 32),
    AMD: Limits(64 * KB, 64 * KB, 32, 32),
}


class Row(NamedTuple):
    kernel: str
    arch: str
    n_block: int
    width: int
    dtype: str
    num_warps: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    programs_per_sm: int
    tensor_core_instructions: int
    code_bytes: int
    variant: str


class Launch(NamedTuple):
    """What `launch.run` is called with."""

    kernel: object
    grid: int
    arguments: tuple
    config: object


def arguments(n: int, width: int, dtype: torch.dtype, variant: str) -> Arguments:
    """The operator as the recommender uses it when "whole"; "plain" in evaluation by draws."""
    if variant == "odd":
        n, width = n - 14, width - 14

    def new(*shape):
        return torch.zeros(shape, dtype=dtype)

    def pair():
        return new(2, 2, n, width), new(2, 2, n, width)

    whole = Arguments(
        *pair(), new(2, 2, n, width), None, *pair(), torch.zeros(2), *pair(),
        torch.zeros(2, n, width), torch.ones(2), torch.ones(2, 3), torch.zeros(2, width),
        cooccurrence=torch.zeros(2, n, n), padding=torch.zeros(2, n, dtype=torch.bool),
        seed=torch.tensor(0), causal=True, mode="sample", activation="leaky_relu", dropout=0.1,
    )  # fmt: skip
    times, square = torch.zeros(2, n, dtype=torch.int64), torch.zeros(2, n, n)
    changes = {
        "plain": {"padding": None, "dropout": 0.0},
        "mean": {"mode": "mean"},
        "masked": {"mask": torch.ones(2, 2, n, n, dtype=torch.bool), "bias": new(2, 2, n, n)},
        "times": {
            "time_table": torch.zeros(1, TIME_BUCKETS), "row_times": times, "key_times": times,
        },
        "rows": {"row_offset": 1, "scale": 0.2},
        "ready": {
            "correlation": square, "factor": square, "prior": square[:, None],
            **dict.fromkeys(("features", "concentration", "mixture", "gate", "cooccurrence")),
        },
    }  # fmt: skip
    return whole._replace(**changes.get(variant, {}))


def launches(
    n: int, width: int, dtype: torch.dtype, family: str, variant: str = "whole"
) -> list[Launch]:
    """The launches of one forward and one backward pass on a card of the family, not done."""
    from rka_fast.ops.triton import launch

    a, seen = arguments(n, width, dtype, variant), []
    needs = [i for i, name in enumerate(DIFFERENTIABLE) if getattr(a, name) is not None]
    original, matmul = (launch.run, launch.family), torch.backends.cuda.matmul
    precision = matmul.fp32_precision
    launch.run, launch.family = lambda *x: seen.append(Launch(*x)), lambda device: family
    matmul.fp32_precision = "tf32" if variant == "tf32" else "ieee"
    try:
        launch.forward(a)
        launch.backward(a.value, needs, a)
    finally:
        launch.run, launch.family = original
        matmul.fp32_precision = precision
    return list({x.kernel: x for x in seen}.values())


def signature(x, path: tuple, constants: dict, attributes: dict, sizes: set):
    """Types of a launch's argument as Triton's runtime specialises it on typical tensors."""
    import triton.language as tl

    if isinstance(x, tuple):
        types = [signature(y, (*path, i), constants, attributes, sizes) for i, y in enumerate(x)]
        return type(x)(*types)
    if x is None or isinstance(x, tl.constexpr):
        constants[path] = None if x is None else x.value
        return "constexpr"
    if isinstance(x, torch.Tensor):
        attributes[path] = [["tt.divisibility", 16]]
        return POINTERS[x.dtype]
    if isinstance(x, float):
        return "fp32"
    if x % 16 == 0 and path not in sizes:
        attributes[path] = [["tt.divisibility", 16]]
    return "i32"


def compiled(launch: Launch, arch: str):
    """Triton's CompiledKernel."""
    import triton
    from triton.backends.compiler import GPUTarget

    from rka_fast.ops.triton.launch import options

    constants, attributes = {}, {}
    sizes = {(p.num,) for p in launch.kernel.params if p.do_not_specialize}
    types = {
        name: signature(x, (i,), constants, attributes, sizes)
        for i, (name, x) in enumerate(zip(launch.kernel.arg_names, launch.arguments, strict=True))
    }
    source = triton.compiler.ASTSource(launch.kernel, types, constants, attributes)
    target = GPUTarget("hip", arch, 64) if arch == AMD else GPUTarget("cuda", int(arch[3:]), 32)
    flags = options(launch.config, nvidia=arch != AMD)
    return triton.compile(source, target=target, options=flags)


def usage(binary, arch: str) -> tuple[int, int, int, int]:
    """Registers and spilled bytes of a thread, tensor-core instructions and bytes of the code."""
    if arch == AMD:
        text = binary.asm["amdgcn"]
        registers = int(re.search(r"\.vgpr_count:\s*(\d+)", text)[1])
        spilled = 4 * int(re.search(r"\.vgpr_spill_count:\s*(\d+)", text)[1])
        size = sum(map(int, re.findall(r"codeLenInByte\s*=\s*(\d+)", text)))
        return registers, spilled, len(re.findall(r"^\s*v_mfma", text, re.M)), size
    tool = cuobjdump()
    if tool is None:
        raise RuntimeError("needs cuobjdump: put CUDA's on the PATH, or install triton")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(binary.asm["cubin"])
        resources, code = (
            subprocess.run([tool, what, file], capture_output=True, text=True, check=True).stdout
            for what in ("-res-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", resources)
    # The kernels have no arrays of their own: whatever is on the stack was spilled.
    tensor_cores = len(re.findall(r"\bHG?MMA\b", code))
    size = 16 * len(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/", code, re.M))
    return int(found[1]), int(found[2]) + int(found[3]), tensor_cores, size


def programs_per_sm(arch: str, warps: int, registers: int, shared: int) -> int:
    limits = LIMITS[arch]
    if arch == AMD:  # 512 vector registers of each of four SIMD units, given out by 8
        by_registers = 4 * (512 // (-(-registers // 8) * 8)) // warps
    else:  # 65,536 registers, given out by 256 to a warp; 1 KB of shared memory is the system's
        by_registers = 65536 // (-(-registers * 32 // 256) * 256 * warps)
        shared += KB
    by_shared = limits.shared_in_all // max(shared, 1)
    return min(by_registers, by_shared, limits.warps // warps, limits.programs)


def row(launch: Launch, arch: str, n: int, width: int, dtype: str, variant: str) -> Row:
    binary = compiled(launch, arch)
    registers, spilled, tensor_cores, size = usage(binary, arch)
    warps, shared = launch.config.num_warps, binary.metadata.shared
    return Row(
        launch.kernel.__name__, arch, n, width, dtype, warps, registers, spilled, shared,
        programs_per_sm(arch, warps, registers, shared), tensor_cores, size, variant,
    )  # fmt: skip


def rows(cases, each=lambda row: None) -> list[Row]:
    """Every kernel of the cases; what differs in no argument of the compiler is compiled once."""
    result, known = [], {}
    for arch, n, width, dtype, variant in cases:
        for x in launches(n, width, DTYPES[dtype], arch, variant):
            key = (x.kernel, x.config, arch, dtype, variant)
            if key not in known:
                known[key] = row(x, arch, n, width, dtype, variant)
            result.append(known[key]._replace(n_block=n, width=width))
            each(result[-1])
    return result


def table_cases(arches, n_blocks, dtypes):
    """The whole launch table, then the variants of its smallest part."""
    from rka_fast.ops.triton import launch

    yield from itertools.product(arches, n_blocks, launch.WIDTHS, dtypes, VARIANTS[:1])
    if 64 in n_blocks and "float32" in dtypes:
        yield from itertools.product(arches, (64,), (64,), ("float32",), VARIANTS[1:])


# What a kernel for at most 64 keys and columns may take on NVIDIA's architectures: bytes spilled,
# bytes of code and of shared memory. An instruction cache holds 128 KB. The backward pass is beyond
# that; it is kept from growing, and so are the variants that few calls take.
BUDGETS = {"forward_kernel": (64, 115 * KB), "backward_kernel": (128, 225 * KB)}
OF_FEW_CALLS = ("masked", "tf32", "odd", "times", "rows")
BUDGETS_OF_FEW_CALLS = {"forward_kernel": (128, 125 * KB), "backward_kernel": (256, 243 * KB)}
SHARED = 57 * KB


def faults(found: list[Row]) -> list[str]:
    """What must not be."""
    result = []
    for x in found:
        if x.shared_bytes > LIMITS[x.arch].shared:
            result.append(f"needs {x.shared_bytes} bytes of shared memory: {x}")
        if x.arch == AMD or x.n_block > 64 or x.width > 64:
            continue
        budgets = BUDGETS_OF_FEW_CALLS if x.variant in OF_FEW_CALLS else BUDGETS
        spilled, code = budgets[x.kernel]
        if x.spill_bytes > spilled:
            result.append(f"spills {x.spill_bytes} bytes: {x}")
        if x.shared_bytes > SHARED:
            result.append(f"shared memory of {x.shared_bytes} bytes: {x}")
        if x.code_bytes > code:
            result.append(f"{x.code_bytes} bytes of code: {x}")
    return result


class Card(NamedTuple):
    """Peak rates a second: operations in fp32 and in dense half precision, bytes of memory."""

    name: str
    device: str  # pattern of what PyTorch calls it
    fp32: float
    half: float
    bandwidth: float


CARDS = (
    Card("A100 80GB", r"A100.*80GB", 19.5e12, 312e12, 2.04e12),
    Card("H100 SXM", r"H100.*HBM3", 66.9e12, 989e12, 3.35e12),
    Card("H200", r"H200", 66.9e12, 989e12, 4.8e12),
    Card("RTX 4090", r"RTX 4090$", 82.6e12, 165.2e12, 1.01e12),
)


class Work(NamedTuple):
    """Of one sequence: operations in the precision of the inputs and in fp32, and bytes."""

    inputs: float  # products of queries, keys and values
    draw: float  # of features, and all of the draw
    bytes: float


def work(n: int, heads: int, width: int, itemsize: int, backward: bool) -> Work:
    """Causal, all parts, features as wide as all heads; only what the formulas cannot do without.

    A product of n x n scores costs n^2 width (half of 2 n^2 width), one of two triangles n^3 / 3.
    """
    square, cube, features = n * n * width, n**3 / 3, heads * width
    tensors, counts = heads * n * width, 4 * n * (n + features)
    inputs = heads * 4 * square
    # Two Gram matrices by half; B, S; two products of the prior (2 each) and the factor.
    draw = 2 * n * n * features + heads * 2 * cube + 5 * cube
    if not backward:
        return Work(inputs, draw, 8 * tensors * itemsize + counts)
    # Three scores again, d W, and two products from each of the three scores and from P V's d V.
    inputs += heads * (8 - 1) * square
    # Two whole products from the Gram matrices; d C, d A, two products into d L; Phi and two
    # triangular solves of full width.
    draw += 4 * n * n * features + heads * 4 * cube + 7 * cube
    gradients = 7 * tensors * itemsize + 4 * n * features
    return Work(inputs, draw, 8 * tensors * itemsize + counts + gradients)


def floor(card: Card, x: Work, itemsize: int) -> tuple[float, str]:
    """Seconds for one sequence, and what it is bounded by."""
    rate = card.fp32 if itemsize == 4 else card.half
    compute, memory = x.inputs / rate + x.draw / card.fp32, x.bytes / card.bandwidth
    return max(compute, memory), "memory" if memory > compute else "compute"


def print_floors() -> None:
    print("\nFloors of 4,096 sequences, causal, width 64, all parts: counted, not measured")
    print(f"{'n':>4} {'heads':>5} {'dtype':<9}{'pass':<9}{'MFLOP/seq':>10}{'KB/seq':>8}", end="")
    print("".join(f"{card.name:>22}" for card in CARDS))
    for n in (50, 64, 100, 128, 200):
        for heads in (1, 4):
            for dtype, itemsize in (("float32", 4), ("bfloat16", 2)):
                for name, backward in (("forward", False), ("backward", True)):
                    x = work(n, heads, 64, itemsize, backward)
                    line = f"{n:>4} {heads:>5} {dtype:<9}{name:<9}"
                    line += f"{(x.inputs + x.draw) / 1e6:>10.2f}{x.bytes / KB:>8.0f}"
                    for card in CARDS:
                        seconds, bound = floor(card, x, itemsize)
                        line += f"{4096e3 * seconds:>11.3f} ms {bound:<8}"
                    print(line)


def print_row(x: Row) -> None:
    print(
        f"{x.kernel:<24}{x.arch:<8}{x.n_block:>5}{x.width:>6} {x.dtype:<9}{x.variant:<8}"
        f"{x.num_warps:>5}{x.registers:>10}{x.spill_bytes:>7}{x.shared_bytes:>8}"
        f"{x.programs_per_sm:>9}{x.tensor_core_instructions:>6}{x.code_bytes:>8}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--n-block", type=int, nargs="+", help="only these blocks of the table")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", help="only these dtypes")
    parser.add_argument(
        "--arch", choices=(*NVIDIA, AMD), nargs="+", help="only these architectures"
    )
    flags = parser.parse_args()
    try:
        from rka_fast.ops.triton import launch
    except ImportError as error:
        print(f"needs triton ({error})")
        return 2
    print(
        f"{'kernel':<24}{'arch':<8}{'n':>5}{'width':>6} {'dtype':<9}{'variant':<8}{'warps':>5}"
        f"{'registers':>10}"
        f"{'spill':>7}{'shared':>8}{'programs':>9}{'MMA':>6}{'code':>8}"
    )
    n_blocks, dtypes = flags.n_block or launch.N_BLOCKS, flags.dtype or DTYPES
    arches = flags.arch or (*NVIDIA, AMD)
    nvidia = [arch for arch in arches if arch != AMD]
    found = rows(table_cases(nvidia, n_blocks, dtypes), print_row)
    if AMD in arches:
        try:
            found += rows(table_cases([AMD], n_blocks, dtypes), print_row)
        except Exception as error:  # whatever this Triton's AMD compiler raises
            print(f"gfx942 does not compile here: {type(error).__name__}: {error}"[:300])
    print_floors()
    if flags.json:
        flags.json.write_text(json.dumps([x._asdict() for x in found], indent=1) + "\n")
    print(*faults(found), sep="\n")
    return int(bool(faults(found)))


if __name__ == "__main__":
    sys.exit(main())

"""Draws benchmarks/results/one_pass.svg: where the data of the Triton kernels is.

    python benchmarks/draw_one_pass.py [FILE]

The bytes are counted from the shapes by `kernel_report.work`, for 64 positions, one head, width 64,
float32; the scratch is what `launch` allocates for a program.
"""

import sys
from pathlib import Path

import matplotlib
from kernel_report import KB, launches, work

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

N, WIDTH = 64, 64
FILE = Path(__file__).parent / "results" / "one_pass.svg"
LEVELS = {"memory": "#dbe4ee", "scratch": "#e6efd9", "chip": "#fbe8d3"}
WORDS = {"memory": "in device memory", "scratch": "in the L2 cache", "chip": "on a multiprocessor"}


def box(ax, x, y, width, height, title, lines, color):
    style = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.12",
        facecolor=color, edgecolor="#555555", linewidth=0.8,
    )  # fmt: skip
    ax.add_patch(style)
    ax.text(x + width / 2, y + height - 0.24, title, ha="center", va="top", weight="bold", size=9)
    text = "\n".join(lines)
    ax.text(x + width / 2, y + height - 0.62, text, ha="center", va="top", size=7.6)


def arrow(ax, start, end):
    ax.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color="#333333", lw=1.1)
    )


def scratch_bytes() -> tuple[int, int]:
    """Of a program: for K and its factor, and for its tile of rows (forward pass)."""
    (forward, *_) = launches(N, WIDTH, torch.float32, "sm_80")
    *_, factor, rows = forward.arguments
    return 4 * factor, 4 * rows


def main() -> int:
    factor, rows = scratch_bytes()
    forward, backward = (work(N, 1, WIDTH, 4, b).bytes / KB for b in (False, True))
    plt.rcParams["svg.hashsalt"] = "one pass"  # the same bytes each time
    figure, ax = plt.subplots(figsize=(8.6, 5.2))
    ax.set(xlim=(0, 12), ylim=(0, 8.2))
    ax.axis("off")
    box(ax, 0.2, 6.1, 11.6, 1.9, "device memory: read once, written once", [
        "location, scale and shape queries and keys, values; features, co-occurrence, masks, "
        "seed",
        f"with the output {forward:.0f} KB a sequence, with all gradients {backward:.0f} KB "
        f"(n = {N}, one head, width {WIDTH}, float32)",
        "no n × n block but the co-occurrence; neither noise, nor K, L, logits or weights",
    ], LEVELS["memory"])  # fmt: skip
    box(ax, 0.2, 3.5, 11.6, 1.9, "scratch of a resident program, used again for each sequence", [
        f"K, overwritten by L, and the inverses of its diagonal blocks: {factor / KB:.0f} KB, "
        "shared by the heads",
        f"a tile of 32 rows: prior, A or logits, B = A L, noise E: {rows / KB:.0f} KB "
        "(backward: nine such rows, and d L)",
        "small enough for the L2 cache",
    ], LEVELS["scratch"])  # fmt: skip
    for x, title, lines in (
        (0.2, "1  K", ["Gram tiles, norms from", "their own diagonal,", "r₁k_c + r₂k_i + r₃k_u"]),
        (3.15, "2  L", ["32 × 32 block in registers,", "its inverse; the rest", "by products"]),
        (6.1, "3  draw", ["A, B = A L, q = |B|²,", "E by Philox,", "S = (E + c B) L'"]),
        (9.05, "4  attend", ["Z = f(ξ) + ω S, running", "maximum and sum,", "dropout, times V"]),
    ):
        box(ax, x, 0.3, 2.75, 2.3, title, lines, LEVELS["chip"])
    ax.text(6, 2.83, "registers: tiles of 32 × 32; shared memory: the operands of one product",
            ha="center", size=8)  # fmt: skip
    for x in (1.0, 6.0, 11.0):
        arrow(ax, (x, 6.05), (x, 5.45))
    for x in (1.6, 4.5, 7.5, 10.4):
        arrow(ax, (x - 0.25, 3.45), (x - 0.25, 2.98))
        arrow(ax, (x + 0.25, 2.98), (x + 0.25, 3.45))
    legend = [Patch(facecolor=color, edgecolor="#555555", label=WORDS[level])
              for level, color in LEVELS.items()]  # fmt: skip
    legend.append(Line2D([], [], color="#333333", marker=r"$\downarrow$", ms=9, ls="",
                         label="data that moves"))  # fmt: skip
    ax.legend(handles=legend, loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=4, fontsize=8,
              frameon=False)  # fmt: skip
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())

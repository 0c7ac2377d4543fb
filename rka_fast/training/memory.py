"""What a run will take of memory, told before it is taken, and refused where there is less.

A model of the tensors: all of them on the CPU, or what trains on a GPU and the rest beside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rka_fast import native
from rka_fast.data.batches import NEGATIVES
from rka_fast.data.cooccurrence import PAIR_BYTES, likely_pairs
from rka_fast.data.counting import form, index_bytes
from rka_fast.data.sequences import Sequences
from rka_fast.data.split import STAGES, Split
from rka_fast.data.split_rules import SPLITS
from rka_fast.errors import ConfigError, TrainingError, UserError
from rka_fast.models import MODELS, Recommender
from rka_fast.models.losses import CHUNK, LOSSES, WHOLE
from rka_fast.models.transformer import BLOCKS
from rka_fast.training.assemble import split_options
from rka_fast.training.config import Config
from rka_fast.training.devices import check_device
from rka_fast.training.metrics import SCORES_AT_ONCE

FLOAT = 4
LATER = 48 * 2**20
"""What is imported and kept by libraries after the estimate: pictures, threads, the allocator."""
SAVED_AT_ONCE = 2
"""Copies of what a checkpoint holds while it is written."""
HELD_PER_EVENT, MADE_PER_EVENT = 16, 44
"""Bytes of the look-ups of who has what, of an event: of all of them, and while one is made
(benchmarks/results/scale-cpu.md)."""
ACTIVATIONS = {False: 18, True: 20}
"""Values of the width kept for the backward pass by position and block, without and with the
relations of RKSA."""
MATRICES = 5
"""Attention matrices of a block that are held at once where they are made at all."""
LOGITS = 3
"""Copies of the logits of the cross-entropy: themselves, their logarithms, their gradient."""


class Memory(NamedTuple):
    """Bytes that a run takes.

    now: what the process has, with the data. making: what finding out who has what adds, and the
    model, which is made before. weights: parameters, gradients, Adam's moments, and what is no
    parameter, such as features of items, once.
    counts: of the co-occurrence, held from the start or made at the end alone, as `held` says.
    step, saving, evaluation: what each adds at its peak.
    """

    now: int
    making: int
    weights: int
    counts: int
    held: bool
    step: int
    saving: int
    evaluation: int

    @property
    def peak(self) -> int:
        """All that is held at once at most."""
        begin = self.counts if self.held else 0
        more = max(begin + max(self.step, self.saving), self.counts + self.evaluation)
        return self.now + LATER + max(self.making, self.weights + more)

    def line(self) -> str:
        """For a person."""
        parts = {
            "data and libraries": self.now + LATER,
            "weights and Adam": self.weights,
            "co-occurrence": self.counts,
            "a step": self.step,
            "saving": self.saving,
            "an evaluation": self.evaluation,
        }
        return _told("memory", self.peak, memory_limit(), parts)

    @property
    def on_gpu(self) -> int:
        """Of a run on a GPU, what is there at most."""
        return self.weights + max(self.step, self.evaluation)

    @property
    def beside_gpu(self) -> Memory:
        """Of a run on a GPU, what is not there; a copy of the weights is made before."""
        return self._replace(weights=self.weights // 4, step=0, evaluation=0)

    def gpu_line(self, free: int) -> str:
        """For a person, of a GPU with so many bytes free."""
        parts = {
            "weights and Adam": self.weights,
            "a step": self.step,
            "an evaluation": self.evaluation,
        }
        return _told("memory of the GPU", self.on_gpu, free, parts)


def _told(what: str, peak: int, limit: int | None, parts: dict[str, int]) -> str:
    told = ", ".join(f"{name} {_size(x)}" for name, x in parts.items() if x >= 2**20)
    of = "" if limit is None else f" of {_size(limit)}"
    return f"{what}: about {_size(peak)}{of} at the peak ({told})"


def foreseen(config: Config, split: Split) -> Memory:
    """What a run of the config on the split will take on the CPU.

    Raises ConfigError for settings that the model refuses.
    """
    try:
        with torch.device("meta"):
            model = MODELS[config.model].from_config(config, split)
    except UserError:
        raise
    except ValueError as error:  # of the constructor, about the settings
        raise ConfigError(str(error)) from None
    sizes = [x.nbytes for x in model.parameters()]
    weights, largest = sum(sizes), max(sizes, default=0)
    buffers = sum(x.nbytes for x in model.buffers())
    averages = int(config.average_weights is not None)
    evaluation = 5 * FLOAT * min(SCORES_AT_ONCE, 256 * (split.sequences.num_items + 1))
    targets = sum(len(split.targets(stage).users) for stage in STAGES)
    events = len(split.sequences.items)
    now = resident() + targets * NEGATIVES * FLOAT + events * HELD_PER_EVENT
    making = weights + events * (MADE_PER_EVENT - HELD_PER_EVENT)
    if not model.trains:
        fitted, counts = weights + buffers, _counts(config, split)
        return Memory(now, making, fitted, counts, True, 0, fitted, evaluation)
    return Memory(
        now=now,
        making=making,
        weights=4 * weights + buffers + averages * (weights + buffers),
        counts=_counts(config, split),
        held=model.uses_cooccurrence,
        step=largest + _step(config, split, model),
        saving=SAVED_AT_ONCE * (3 + averages) * weights,
        evaluation=evaluation + 3 * weights,  # the best checkpoint is read
    )


def _counts(config: Config, split: Split) -> int:
    if form(split, config.counting) == "index":
        return index_bytes(split)
    return PAIR_BYTES * likely_pairs(split)


def _step(config: Config, split: Split, model: Recommender) -> int:
    """Activations, attention and loss of a step, at the end of its forward pass."""
    lengths = split.train_end - split.sequences.indptr[:-1] - 1
    lengths = np.minimum(lengths[lengths > 0], config.max_length).astype(float)
    if not len(lengths):
        return 0
    batch = min(config.batch_size or 1, len(lengths))
    positions = batch * lengths.mean() + 2 * lengths.std() * batch**0.5
    width, blocks, n = config.width or 1, config.blocks or 1, config.max_length
    expansion = config.expansion or (BLOCKS[config.block].usual_expansion if config.block else 1)
    per_position = ACTIVATIONS[model.uses_cooccurrence] + 4 * expansion
    total = FLOAT * positions * width * (per_position * blocks + 8)
    if model.uses_cooccurrence:
        total += 3 * FLOAT * batch * n * n
    fused = model.uses_cooccurrence and not native.why_not("_cpp")
    if model.has_attention and not fused:
        pairs = batch * float(np.square(lengths).mean()) * (config.heads or 1)
        total += MATRICES * FLOAT * pairs * blocks
    total += FLOAT * model.kept_beside(positions, batch * float(np.square(lengths).mean()))
    return int(total + _loss(config, split.sequences.num_items, batch, positions))


def _loss(config: Config, items: int, batch: int, positions: float) -> float:
    width, k = config.width or 1, config.negatives_per_position
    if config.loss is None or not LOSSES[config.loss].negatives:
        products = positions * items
        return LOGITS * FLOAT * (products if products <= WHOLE else CHUNK)
    vectors = {"sequence": batch, "batch": 1}.get(config.shared_negatives or "none", positions)
    return FLOAT * k * (3 * vectors * width + 6 * positions)


def check_fits(config: Config, sequences: Sequences) -> list[str]:
    """Lines about memory, none on the GPU of a Mac.

    Raises ConfigError where there is no such device, TrainingError where memory won't suffice.
    """
    check_device(config.device)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and torch.backends.mps.is_available():
            return []
    if device == "mps":
        return []
    memory = foreseen(config, SPLITS[config.split](sequences, split_options(config)))
    here, lines, fits = memory, [], True
    if device.startswith("cuda"):
        free = torch.cuda.mem_get_info(_gpu(device))[0]
        here, lines, fits = memory.beside_gpu, [memory.gpu_line(free)], memory.on_gpu <= free
    limit, processes = memory_limit(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fits &= limit is None or processes * here.peak <= limit
    lines.append(here.line())
    if fits or config.force:
        return lines
    each = f", in each of {processes} processes" if processes > 1 else ""
    remedies = "; ".join([*_remedies(config, memory), "or --force tries it"])
    raise TrainingError(f"{'; '.join(lines)}{each}: it will not fit; {remedies}")


def _gpu(device: str) -> int:
    """The number of a GPU by name, of this process where several share a machine."""
    index = device.partition(":")[2] or os.environ.get("LOCAL_RANK", "0")
    return int(index)


def _remedies(config: Config, memory: Memory) -> Iterator[str]:
    """What makes the largest parts smaller."""
    if memory.step > memory.peak / 8:
        if config.loss == "ce":
            yield "--loss sampled_ce --shared-negatives sequence compares with some items only"
        yield f"a lower --batch-size than {config.batch_size} takes less a step"
    if memory.weights + memory.saving > memory.peak / 8:
        if config.width is not None:
            yield f"a lower --width than {config.width} takes less for each item"
        yield "a higher --min-item-events leaves rare items out"
    if memory.counts > memory.peak / 8:
        yield f"a lower --max-counted than {config.max_counted} takes less for the co-occurrence"


def memory_limit() -> int | None:
    """Bytes that this process may have: of the machine, or of its container if that is less."""
    found = [*_cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    with contextlib.suppress(ValueError, OSError, AttributeError):  # not on every system
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return min(found, default=None)


def _cgroup_limits(membership: Path, root: Path) -> Iterator[int]:
    """Limits of the control groups that a process is in, version 1 or 2, and of those above.

    membership: lines "number:controllers:path", as in /proc/self/cgroup; in a container the path
    may be that outside of it, and the limit stands at the root.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        top = root if not controllers else root / "memory"
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        within = top / path.lstrip("/")
        for folder in (within, *within.parents):
            if folder.is_relative_to(top) and (limit := _number(folder / name)) is not None:
                yield limit


def _number(path: Path) -> int | None:
    """The number in a file; None where there is none, or it means no limit."""
    try:
        value = int(path.read_text())
    except (OSError, ValueError):  # "max" is no number
        return None
    return value if value < 2**60 else None


def resident() -> int:
    """Bytes of memory that this process has now."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _size(number: float) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**30 / 10 else f"{number / 2**20:,.3g} MiB"

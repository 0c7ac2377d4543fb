"""What a run will take of memory, told before it is taken, and refused where there is less.

A model of the tensors: all of them on the CPU, or what trains on a GPU and the rest beside it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch

from rka_fast import native
from rka_fast.data.batches import NEGATIVES
from rka_fast.data.cooccurrence import PAIR_BYTES, likely_pairs, table_bytes
from rka_fast.data.counting import form, index_bytes
from rka_fast.data.sequences import Sequences
from rka_fast.data.shards import Prepared
from rka_fast.data.split import STAGES, Split
from rka_fast.data.split_rules import SPLITS
from rka_fast.errors import ConfigError, TrainingError, UserError
from rka_fast.models import MODELS, Recommender
from rka_fast.models.losses import CHUNK, LOSSES, WHOLE
from rka_fast.models.transformer import BLOCKS
from rka_fast.training.assemble import split_options
from rka_fast.training.config import Config
from rka_fast.training.devices import check_device, processes
from rka_fast.training.metrics import SCORES_AT_ONCE
from rka_fast.training.streamed_split import Catalogue, Shards

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
SHARD = {"events": 90, "users": 160, "targets": 520, "items": 40}
"""Bytes of a shard of prepared data while it is evaluated, of each: events with their look-ups, ids
and offsets of users, sampled negatives of targets, how often look-ups have an item."""
TARGET = 130
"""Bytes of a target while the others are evaluated, in whatever shard: its user, ranks and list."""
COUNTING = 4
"""Counts of prepared data while they are read or summed, as a multiple of what is then held."""


class Memory(NamedTuple):
    """Bytes that a run takes.

    now: what the process has, with the data. making: what finding out who has what adds, and the
    model, which is made before; of data that is streamed, what reading the counts adds. weights:
    parameters, gradients, Adam's moments, and once what is no parameter, as features of items are.
    counts: of the co-occurrence, held from the start or made at the end alone, as `held` says.
    step, saving, evaluation: what each adds at its peak. shard, targets: of prepared data that is
    streamed, one shard, and what is known of the targets of all.
    """

    now: int
    making: int
    weights: int
    counts: int
    held: bool
    step: int
    saving: int
    evaluation: int
    shard: int = 0
    targets: int = 0

    @property
    def peak(self) -> int:
        """All that is held at once at most."""
        begin = self.counts if self.held else 0
        more = max(begin + max(self.step, self.saving), self.counts + self.evaluation)
        always = self.now + LATER + self.shard + self.targets
        return always + max(self.making, self.weights + more)

    def line(self) -> str:
        """For a person."""
        parts = {
            "data and libraries": self.now + LATER,
            "a shard": self.shard,
            "targets": self.targets,
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
        return self.weights + max(self.step, self.evaluation, self.trial)

    @property
    def trial(self) -> int:
        """Of the optimiser on a copy of the weights, which takes moments of its own."""
        return self.weights // 4 * 3

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
            "a trial of Adam": self.trial,
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
    model = _without_weights(config, split)
    targets = sum(len(split.targets(stage).users) for stage in STAGES)
    events = len(split.sequences.items)
    now = resident() + targets * NEGATIVES * FLOAT + events * HELD_PER_EVENT
    made = sum(x.nbytes for x in model.parameters()) + events * (MADE_PER_EVENT - HELD_PER_EVENT)
    return _of_model(config, split, model)._replace(
        now=now, making=made, counts=_counts(config, split)
    )


def foreseen_streamed(config: Config, prepared: Prepared, catalogue: Sequences) -> Memory:
    """What each process of a run on prepared data will take, by the first shard that it has.

    catalogue: the items, see `catalogue_of`. A shard that will not fit is not read: the estimate is
    then without a step and without counts. Raises ConfigError for settings that the model refuses.
    """
    now, facts = resident(), prepared.facts
    events, users = (-(-facts[name] // prepared.shards) for name in ("events", "users"))
    sizes: Any = SimpleNamespace(sequences=Catalogue(catalogue.num_items, facts["users"]))
    model = _without_weights(config, sizes)
    numbers = {"events": events, "users": users, "targets": users, "items": facts["items"]}
    shard = sum(SHARD[name] * number for name, number in numbers.items())
    found = Memory(now, 0, 0, 0, model.uses_cooccurrence, 0, 0, 0, shard)
    if (limit := memory_limit()) is not None and found.peak > limit:
        return found
    split = Shards(config, prepared, catalogue).split(int(os.environ.get("RANK", 0)))
    asked = [len(split.targets(stage).users) for stage in STAGES]
    shard += SHARD["targets"] * (max(asked) - users)
    share = -(-config.batch_size // processes())
    found = _of_model(dataclasses.replace(config, batch_size=share), split, model)
    if prepared.has_counts(config.split, config.max_counted):
        counts = 2 * PAIR_BYTES * facts["counts"]["pairs"]
    else:
        counts = PAIR_BYTES * pairs_of_all(split, prepared.shards)
    # They come before, or at the end.
    making = COUNTING * counts + (0 if found.held else found.weights)
    counts += table_bytes(catalogue.num_items)
    return found._replace(
        now=now, making=making, counts=counts, shard=shard,
        targets=TARGET * prepared.shards * sum(asked),
    )  # fmt: skip


def pairs_of_all(split: Split, shards: int) -> int:
    """About how many pairs the counts of all shards store, from the split of the users of one.

    From half of its users to all of them they grow by some power, and with more users rather more
    slowly (as distinct words of a text do, Heaps, 1978): what is found is rather too much.
    """
    users, begin = np.arange(split.sequences.num_users), split.sequences.indptr[:-1]
    half = dataclasses.replace(split, train_end=np.where(users % 2 == 0, split.train_end, begin))
    pairs, fewer = likely_pairs(split), max(likely_pairs(half), 1)
    growth = min(max(math.log2(max(pairs, 1) / fewer), 0.0), 1.0)
    return int(min(pairs * shards**growth, split.sequences.num_items**2))


def _without_weights(config: Config, split: Split) -> Recommender:
    try:
        with torch.device("meta"):
            return MODELS[config.model].from_config(config, split)
    except UserError:
        raise
    except ValueError as error:  # of the constructor, about the settings
        raise ConfigError(str(error)) from None


def _of_model(config: Config, split: Split, model: Recommender) -> Memory:
    """What the model takes of the memory: weights, a step, saving and evaluation."""
    sizes = [x.nbytes for x in model.parameters()]
    weights, largest = sum(sizes), max(sizes, default=0)
    buffers = sum(x.nbytes for x in model.buffers())
    averages = int(config.average_weights is not None)
    evaluation = 5 * FLOAT * min(SCORES_AT_ONCE, 256 * (split.sequences.num_items + 1))
    if not model.trains:
        fitted = weights + buffers
        return Memory(0, 0, fitted, 0, True, 0, fitted, evaluation)
    return Memory(
        now=0,
        making=0,
        weights=4 * weights + buffers + averages * (weights + buffers),
        counts=0,
        held=model.uses_cooccurrence,
        step=largest + _step(config, split, model),
        saving=SAVED_AT_ONCE * (3 + averages) * weights,
        evaluation=evaluation + 3 * weights,  # the best checkpoint is read
    )


def _counts(config: Config, split: Split) -> int:
    if form(split, config.counting) == "index":
        return index_bytes(split)
    return PAIR_BYTES * likely_pairs(split) + table_bytes(split.sequences.num_items)


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


def check_fits(config: Config, sequences: Sequences, prepared: Prepared | None = None) -> list[str]:
    """Lines about memory, none on the GPU of a Mac.

    prepared: the data that is streamed, `sequences` being its catalogue. Raises ConfigError where
    there is no such device, TrainingError where memory won't suffice.
    """
    check_device(config.device)
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu" and torch.backends.mps.is_available():
            return []
    if device == "mps":
        return []
    if prepared is not None:
        memory = foreseen_streamed(config, prepared, sequences)
    else:
        memory = foreseen(config, SPLITS[config.split](sequences, split_options(config)))
    here, lines, fits = memory, [], True
    if device.startswith("cuda"):
        free = torch.cuda.mem_get_info(_gpu(device))[0]
        here, lines, fits = memory.beside_gpu, [memory.gpu_line(free)], memory.on_gpu <= free
    limit, beside = memory_limit(), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    fits &= limit is None or beside * here.peak <= limit
    lines.append(here.line())
    if fits or config.force:
        return lines
    each = f", in each of {beside} processes" if beside > 1 else ""
    remedies = "; ".join([*_remedies(config, memory), "or --force tries it"])
    raise TrainingError(f"{'; '.join(lines)}{each}: it will not fit; {remedies}")


def _gpu(device: str) -> int:
    """The number of a GPU by name, of this process where several share a machine."""
    index = device.partition(":")[2] or os.environ.get("LOCAL_RANK", "0")
    return int(index)


def _remedies(config: Config, memory: Memory) -> Iterator[str]:
    """What makes the largest parts smaller."""
    large = memory.peak / 8
    if memory.step > large:
        if config.loss == "ce":
            yield "--loss sampled_ce --shared-negatives sequence compares with some items only"
        yield f"a lower --batch-size than {config.batch_size} takes less a step"
    if memory.weights + memory.saving > large:
        if config.width is not None:
            yield f"a lower --width than {config.width} takes less for each item"
        prepared = ", where the data is prepared," if memory.shard else ""
        yield f"a higher --min-item-events{prepared} leaves rare items out"
    if memory.counts > large:
        yield f"a lower --max-counted than {config.max_counted} takes less for the co-occurrence"
    if memory.shard > large:
        yield "more --shards, where the data is prepared, take less each"
    if memory.targets > large:
        yield "a lower --eval-users asks for fewer targets"


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

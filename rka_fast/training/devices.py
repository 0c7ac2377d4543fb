"""The device of a run with its precision and processes, and the seeds and signals of each."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import signal
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState

from rka_fast.data.batches import Batch
from rka_fast.errors import ConfigError
from rka_fast.training.config import Config
from rka_fast.training.tracking import installed_trackers


def processes() -> int:
    """How many there are, as torchrun says."""
    return int(os.environ.get("WORLD_SIZE", 1))


def make_accelerator(config: Config, track: bool = False) -> Accelerator:
    """Device, precision and processes, and trackers. Raises ConfigError where they are unavailable.

    track: whether to report to those of the settings.
    """
    device_type = check_device(config.device)
    if device_type == "auto" and not torch.accelerator.is_available():
        device_type = "cpu"  # by name, or accelerate leaves processes alone with themselves
    trackers = installed_trackers(config.track) if track else []
    if torch.distributed.is_available():
        # its functions keep the group that is the default when they are imported, as PyTorch does
        # on the way: that group's threads would then outlive it, and one that frees a tensor
        # while the interpreter ends takes the process with it
        importlib.import_module("torch.distributed.nn.functional")
    AcceleratorState._reset_state(True)  # several runs in one process may differ in precision
    accelerator = Accelerator(
        cpu=device_type == "cpu",
        mixed_precision={"fp32": "no"}.get(config.precision, config.precision),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        log_with=trackers or None,  # pyright: ignore[reportArgumentType]
        project_dir=config.run_dir if trackers else None,
    )
    if accelerator.num_processes != processes():  # each would write what it found alone
        raise ConfigError(
            f"{processes()} processes were started, but on device {accelerator.device.type!r} each "
            "of them would train alone; use --device cpu, or start one process"
        )
    if config.precision == "fp16" and accelerator.device.type == "cpu":  # no loss scaling there
        raise ConfigError("precision 'fp16' needs a GPU; on the CPU use --precision bf16 or fp32")
    return accelerator


def check_device(device: str) -> str:
    """The type of a device by name. Raises ConfigError where there is none on this machine."""
    device_type, _, index = device.partition(":")
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device_type in available and not available[device_type]():
        raise ConfigError(
            f"device {device!r} is not available on this machine; use --device cpu or auto"
        )
    if index:
        if int(index) >= torch.cuda.device_count():
            raise ConfigError(
                f"device {device!r} does not exist: this machine has "
                f"{torch.cuda.device_count()} CUDA devices, counted from 0"
            )
        torch.cuda.set_device(int(index))
    return device_type


def seed_torch(*key: object) -> None:
    """Seed PyTorch's generators from the key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def shard(batch: Batch, rank: int, world: int) -> tuple[Batch, float]:
    """This process's users of a batch, and the weight of their mean loss.

    With this weight the average over the processes is the mean over the targets of all users.
    """
    if world == 1:
        return batch, 1.0
    rows = np.array_split(np.arange(len(batch.users)), world)[rank]
    total = (batch.targets > 0).sum().item()
    own = (batch.targets[rows] > 0).sum().item() if len(rows) else 0
    if not own:  # a small last batch: take part in the reductions, at weight 0
        rows = np.arange(1)
    of_batch = {"kernel_items", "kernel_counts"}
    per_user = [name for name in batch._fields if name not in of_batch]
    parts = {name: getattr(batch, name) for name in per_user}
    if batch.negatives is not None and batch.negatives.dim() == 1:
        del parts["negatives"]  # shared by all of the batch
    return batch._replace(
        **{name: part if part is None else part[rows] for name, part in parts.items()}
    ), own * world / total


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM in a list, to stop between two steps; a second one kills."""
    received: list[int] = []

    def receive(number: int, frame: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    previous = {}
    with contextlib.suppress(ValueError):  # only the main thread may handle signals
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

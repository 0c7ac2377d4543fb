"""Checkpoints: one safetensors file with weights, optimiser state and metadata."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from rka_fast.errors import CheckpointError, ConfigError
from rka_fast.files import write_atomically
from rka_fast.training.config import Config


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    model: state dict. optimizer: state dict of a torch optimiser, or None. meta: JSON-able
    facts about the run (config, progress). catalogue: fingerprint of the items it is for. path:
    where it was read. average: state dict of the averaged weights, where there are any.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None
    meta: dict[str, Any]
    catalogue: str
    path: Path | None = None
    average: dict[str, Tensor] | None = None

    def save(self, path: Path) -> None:
        """Write the file; whenever the process dies, `path` is the old or the new one, whole."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in (self.average or {}).items()}
        header = {"meta": self.meta, "catalogue": self.catalogue, "optimizer": None}
        if self.optimizer is not None:
            header["optimizer"] = self.optimizer["param_groups"]
            for index, state in self.optimizer["state"].items():
                tensors.update({f"optimizer.{index}.{key}": value for key, value in state.items()})
        tensors = _apart(tensors)
        header["digest"] = _digest(header, tensors)
        write_atomically(path, safetensors.torch.save(tensors, {"rka_fast": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path, catalogue: str | None = None) -> Checkpoint:
        """Read the file, on the CPU.

        Raises CheckpointError where it is missing, damaged, or not for the items of which
        `catalogue` is the fingerprint.
        """
        try:
            content = path.read_bytes()  # not mapped: others may cut the file off
            tensors = safetensors.torch.load(content)
            length = int.from_bytes(content[:8], "little")
            header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["rka_fast"])
            digest = header.pop("digest", None)
            if digest is None:  # of an older version
                matches = header["checksum"] == _checksum(tensors)
            else:
                matches = digest == _digest(header, tensors)
            if not matches:
                raise ValueError("its checksum does not match its content")
            for name, tensor in tensors.items():
                if tensor.is_floating_point() and not tensor.isfinite().all():
                    raise ValueError(f"{name} is not finite")
            model, average, state = _parts(tensors)
            groups, meta, items = header["optimizer"], header["meta"], header["catalogue"]
        except FileNotFoundError:
            raise CheckpointError(
                f"there is no checkpoint {path}; the run was stopped before its "
                "first one, start it again with another --out"
            ) from None
        except MemoryError:
            raise
        except OSError as error:
            raise CheckpointError(
                f"cannot read checkpoint {path}: {error.strerror}; mend this and try again"
            ) from None
        except Exception as error:  # of safetensors, of JSON and of odd content
            raise CheckpointError(
                f"checkpoint {path} is damaged ({error}); restore it from a "
                "copy or start the run again with another --out"
            ) from None
        if catalogue is not None and items != catalogue:
            raise CheckpointError(
                f"checkpoint {path} was written for a different item catalogue: its item numbers "
                "mean something else here. Use the run folder that it was written in"
            )
        optimizer = None if groups is None else {"state": state, "param_groups": groups}
        return cls(model, optimizer, meta, items, path, average or None)

    def check_run(self, config: Config, data: str) -> None:
        """Raise CheckpointError unless it is of a run with these settings on this data.

        data: digest of the sequences.
        """
        try:
            values = self.meta["config"]
            saved = Config.from_json(values if "format" in values else {"format": 1, **values})
        except (KeyError, TypeError, ConfigError) as error:
            raise self._unfit(f"has no settings of a run ({error})") from None
        ignoring = (*config.resumable, "out", "data")
        for name, (here, there) in config.difference(saved, ignoring).items():
            raise self._unfit(f"is of another run: its {name} is {there!r}, here it is {here!r}")
        if self.meta.get("data", data) != data:
            raise self._unfit("is of a run on other data")

    def _unfit(self, what: str) -> CheckpointError:
        name = "the checkpoint" if self.path is None else f"checkpoint {self.path}"
        return CheckpointError(
            f"{name} {what}; restore it from a copy or start the run again with another --out"
        )

    def load_into(self, model: torch.nn.Module) -> None:
        """Load the weights. Raises CheckpointError if they are of another architecture."""
        self._load(self.model, model)

    def load_average(self, average: AveragedModel, updates: int) -> None:
        """Load the averaged weights, which so many updates made; errors as in `load_into`."""
        if self.average is None:
            raise self._unfit("has no average of the weights")
        self._load(self.average, average.module)
        average.n_averaged.fill_(updates)

    def _load(self, weights: dict[str, Tensor], model: torch.nn.Module) -> None:
        try:
            kinds = {name: tensor.dtype for name, tensor in model.state_dict().items()}
            for name, tensor in weights.items():
                if name in kinds and tensor.dtype != kinds[name]:
                    raise RuntimeError(f"{name} is {tensor.dtype}, expected {kinds[name]}")
            model.load_state_dict(weights)
        except RuntimeError as error:
            reasons = " ".join(str(error).split())
            raise self._unfit(f"does not fit the model: {reasons}") from None

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Load the state of Adam. Raises CheckpointError if it is not that of the parameters.

        Fused kernels trust shapes and types and would read past the end of what is too short.
        """
        if self.optimizer is None:
            raise self._unfit("has no state of the optimiser")
        groups, state = optimizer.state_dict()["param_groups"], self.optimizer["state"]
        saved = self.optimizer["param_groups"]
        if [g["params"] for g in groups] != [g["params"] for g in saved]:
            raise self._unfit("has an optimiser of other parameters")
        numbers = [number for group in groups for number in group["params"]]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, parameter in zip(numbers, parameters, strict=True):
            moments = state.get(number, {})
            if moments and not {"step", "exp_avg", "exp_avg_sq"} <= moments.keys():
                raise self._unfit(f"lacks moments of parameter {number}")
            for name, value in moments.items():
                expected = (parameter.shape, parameter.dtype)
                if name == "step":
                    expected = (torch.Size(), torch.float32)
                if (value.shape, value.dtype) != expected:
                    raise self._unfit(
                        f"has {name} of parameter {number} as {value.dtype} {tuple(value.shape)}, "
                        f"expected {expected[1]} {tuple(expected[0])}"
                    )
        if strays := set(state) - set(numbers):
            raise self._unfit(f"has moments of no parameter: {sorted(strays)}")
        optimizer.load_state_dict(self.optimizer)


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU; those that share memory (tied weights), which safetensors refuses,
    as copies."""
    known: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in known else tensor
        known.add(place)
    return found


def _parts(
    tensors: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[int, dict[str, Tensor]]]:
    """Weights and averaged weights by name, and the state of the optimiser by parameter."""
    weights: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if part in weights:
            weights[part][rest] = tensor
        else:
            index, key = rest.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
    return weights["model"], weights["average"], state


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of the header and of the tensors with their names, types and shapes."""
    value = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        value.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        content: Any = tensor.reshape(-1).view(torch.uint8).numpy()  # a buffer
        value.update(content)
    return value.hexdigest()


def _checksum(tensors: dict[str, Tensor]) -> int:
    """What checkpoints of format 1 and 2 without a digest have."""
    value = 0
    for name in sorted(tensors):
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()  # a buffer
        value = zlib.crc32(content, value)
    return value

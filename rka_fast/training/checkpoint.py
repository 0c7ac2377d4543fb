"""Checkpoints: one safetensors file with weights, optimiser state and metadata."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from rka_fast.errors import CheckpointError
from rka_fast.files import write_atomically


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    model: state dict. optimizer: state dict of a torch optimiser, or None. meta: JSON-able
    facts about the run (config, progress). catalogue: fingerprint of the items it is for.
    """

    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None
    meta: dict[str, Any]
    catalogue: str

    def save(self, path: Path) -> None:
        """Write the file; whenever the process dies, `path` is the old or the new one, whole."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.items()}
        header = {"meta": self.meta, "catalogue": self.catalogue, "optimizer": None}
        if self.optimizer is not None:
            header["optimizer"] = self.optimizer["param_groups"]
            for index, state in self.optimizer["state"].items():
                tensors.update({f"optimizer.{index}.{key}": value for key, value in state.items()})
        # clones: tensors that share memory (tied weights) are refused otherwise
        tensors = {
            name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()
        }
        header["checksum"] = _checksum(tensors)
        write_atomically(path, safetensors.torch.save(tensors, {"rka_fast": json.dumps(header)}))

    @classmethod
    def load(cls, path: Path, catalogue: str | None = None) -> Checkpoint:
        """Read the file, on the CPU.

        Raises CheckpointError where it is missing, damaged, or not for the items of which
        `catalogue` is the fingerprint.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                header = json.loads(file.metadata()["rka_fast"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if header["checksum"] != _checksum(tensors):
                raise ValueError("its checksum does not match its content")
        except FileNotFoundError:
            raise CheckpointError(
                f"there is no checkpoint {path}; the run was stopped before its "
                "first one, start it again with another --out"
            ) from None
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint {path} is damaged ({error}); restore it from a "
                "copy or start the run again with another --out"
            ) from None
        if catalogue is not None and header["catalogue"] != catalogue:
            raise CheckpointError(
                f"checkpoint {path} was written for a different item catalogue: its item numbers "
                "mean something else here. Use the run folder that it was written in"
            )
        model: dict[str, Tensor] = {}
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, rest = name.split(".", 1)
            if part == "model":
                model[rest] = tensor
            else:
                index, key = rest.split(".", 1)
                state.setdefault(int(index), {})[key] = tensor
        groups = header["optimizer"]
        optimizer = None if groups is None else {"state": state, "param_groups": groups}
        return cls(model, optimizer, header["meta"], header["catalogue"])

    def load_into(self, model: torch.nn.Module) -> None:
        """Load the weights. Raises CheckpointError if they are of another architecture."""
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            reasons = " ".join(str(error).split())
            raise CheckpointError(f"the checkpoint does not fit the model: {reasons}") from None


def _checksum(tensors: dict[str, Tensor]) -> int:
    value = 0
    for name in sorted(tensors):
        content: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()  # a buffer
        value = zlib.crc32(content, value)
    return value

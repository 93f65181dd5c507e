"""`blemish export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blemish.cli.interruptions import when_interrupted
from blemish.errors import UsageError


@when_interrupted("Nothing was written. The same command begins anew")
def export(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    calibrate: Annotated[Path, typer.Option(help="Folder of the images that it was trained and calibrated with.")],
    out: Annotated[Path, typer.Option(help="The new model file.")],
    precision: Annotated[str, typer.Option(help="int8.")] = "int8",
) -> None:
    """Turn a model file into one that computes in eight-bit integers, and prove that it decides alike.

    Example: `blemish export bottle.blemish --calibrate mvtec/bottle --out bottle.int8.blemish`

    The calibration images, known by their sha256, set its threshold anew. Where their order or verdicts change more
    than a little, nothing is written.
    """
    if precision != "int8":
        raise UsageError(
            f"there is no precision '{precision}' to export to",
            where="--precision",
            todo="Take int8; the model file itself is float32",
        )
    from blemish.console import console
    from blemish.quantisation import quantise

    with console() as listener:
        quantise(model, calibrate, out, listener)
    typer.echo(out)

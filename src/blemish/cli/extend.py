"""`blemish extend`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blemish.cli.interruptions import when_interrupted
from blemish.cli.train import Device


@when_interrupted("Nothing was written. The same command begins anew")
def extend(
    model: Annotated[Path, typer.Argument(help="A model file of method patchcore.")],
    source: Annotated[Path, typer.Argument(help="Folder or csv file with more images of good parts.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model file to write, NAME.blemish.")],
    layout: Annotated[str, typer.Option(help="`blemish layouts` lists them.")] = "auto",
    false_alarm_rate: Annotated[
        float | None,
        typer.Option(help="Share of good parts that may be called NG. \\[default: 0.01 or the smallest reachable]"),
    ] = None,
    review_rate: Annotated[
        float | None,
        typer.Option(help="Share of good parts that may be NG or REVIEW. \\[default: 0.05 or twice the above]"),
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Share of the new images that calibrate instead. \\[default: 0.2]")
    ] = None,
    folds: Annotated[int | None, typer.Option(help="Calibrate by cross-conformal folds of the new images.")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.AUTO,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of teachers' weights. \\[default: BLEMISH_WEIGHTS]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the model file's summary as JSON.")] = False,
) -> None:
    """Add more good parts to a detector, without the images that it was trained on.

    Example: `blemish extend bottle.blemish photos/new_supplier --out bottle2.blemish`

    The new detector is calibrated on the new images alone.
    """
    from blemish.cli.info import print_summary
    from blemish.console import console

    with console() as listener:
        listener.say("Starting torch.")
        from blemish.assembly import model_path
        from blemish.extension import extend as add

        detector = add(
            model,
            source,
            out,
            layout=layout,
            false_alarm_rate=false_alarm_rate,
            review_rate=review_rate,
            hold_out=hold_out,
            folds=folds,
            device=device.value,
            weights=weights,
            listener=listener,
        )
        path = model_path(out)
    if detector.manifest is None:
        raise AssertionError("an extended detector has a manifest")
    if as_json:
        print_summary(path, detector.manifest, as_json=True)
    else:
        typer.echo(f"{path}\nNext: blemish inspect {path} IMAGE ... --heatmaps out/", err=True)

"""`blemish evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from blemish.evaluation import Evaluation


def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    source: Annotated[Path, typer.Argument(help="Folder or csv file with labelled test images.")],
    layout: Annotated[str, typer.Option(help="`blemish layouts` lists them.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON document.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
) -> None:
    """Measure a detector on labelled test images it has not seen.

    Example: `blemish evaluate bottle.blemish mvtec/bottle --report bottle.html`

    Nothing is tuned on test images: the threshold is the model file's.
    """
    from blemish.cli.inspect import make_folder
    from blemish.console import console
    from blemish.data import open_dataset
    from blemish.evaluation import evaluate as measure
    from blemish.evaluation import write_report
    from blemish.runtime import load

    if report:
        make_folder(report.parent)
    with console() as listener:
        detector = load(model)
        dataset = open_dataset(source, layout)
        listener.say(dataset.note)
        result = measure(detector, dataset, lambda done, total: listener.progress("inspecting", done / total))
        if report:
            write_report(report, result, detector)
            listener.say(f"Wrote {report}.")
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        print_tables(result)


def print_tables(result: Evaluation) -> None:
    """Figures and verdicts as tables on standard output."""
    from rich.console import Console
    from rich.table import Table

    figures = result.to_dict()
    console = Console(highlight=False)
    table = Table(
        "measure", "value", title=f"{figures['n_normal']} normal and {figures['n_anomalous']} anomalous images"
    )
    names = ("image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "mad", "iou")
    for name in names:
        value = figures[name]
        table.add_row(name, f"undefined: {figures['undefined'].get(name, '')}" if value is None else f"{value:.4f}")
    table.add_row("fps", f"{figures['fps']:.1f} images/s, decoding included")
    console.print(table)
    verdicts = Table("", "OK", "REVIEW", "NG", "REJECTED", title="verdicts")
    for label, counts in figures["verdicts"].items():
        verdicts.add_row(label, *(str(counts[name]) for name in ("OK", "REVIEW", "NG", "REJECTED")))
    console.print(verdicts)

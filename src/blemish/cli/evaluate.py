"""`blemish evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli.inspect import Runtime, checked_runtime
from blemish.cli.interruptions import when_interrupted

if TYPE_CHECKING:
    from blemish.evaluation import Evaluation, Share


@when_interrupted("Nothing was written. The same command begins anew")
def evaluate(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    source: Annotated[Path, typer.Argument(help="Folder or csv file with labelled test images.")],
    layout: Annotated[str, typer.Option(help="`blemish layouts` lists them.")] = "auto",
    runtime: Runtime = "onnxruntime",
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as one JSON document.")] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Add 95 % intervals of the metrics, by 1,000 bootstrap draws.")
    ] = False,
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
        detector = load(model, runtime=checked_runtime(runtime))
        dataset = open_dataset(source, layout)
        listener.say(dataset.note)
        result = measure(
            detector,
            dataset,
            lambda done, total: listener.progress("inspecting", done / total),
            confidence=confidence,
        )
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
    for name, value in result.measures.values.items():
        text = f"undefined: {figures['undefined'].get(name, '')}" if value is None else f"{value:.4f}"
        if bound := figures["error_bounds"].get(name):
            text += f" ± {bound:.1g}"
        if result.confidence and (interval := result.confidence.intervals.get(name)):
            text += f", {result.confidence.level:.0%} interval {interval.low:.4f} to {interval.high:.4f}"
            if interval.undefined:
                text += f" ({interval.undefined} of {result.confidence.draws} draws undefined)"
        table.add_row(name, text)
    for name, share, what in (
        ("overkill", result.overkill, "good parts judged NG"),
        ("escape", result.escape, "bad parts judged OK"),
    ):
        table.add_row(name, _share(share, what) if share.of else f"undefined: {figures['undefined'][name]}")
    for name, what in (
        ("fps", "decoding included, batch 1"),
        ("fps_graph", "graph alone, batch 1"),
        ("fps_graph_batched", f"graph alone, batch {figures['batch_sizes']['fps_graph_batched']}"),
    ):
        speed = figures[name]
        reason = figures["undefined"].get(name)
        table.add_row(name, f"undefined: {reason}" if speed is None else f"{speed:.1f} images/s, {what}")
    console.print(table)
    verdicts = Table("", "OK", "REVIEW", "NG", "REJECTED", title="verdicts")
    for label, counts in figures["verdicts"].items():
        verdicts.add_row(label, *(str(counts[name]) for name in ("OK", "REVIEW", "NG", "REJECTED")))
    console.print(verdicts)


def _share(share: Share, what: str) -> str:
    text = f"{share.count} of {share.of} {what}"
    if share.rate is not None and share.interval is not None:
        low, high = share.interval
        text = f"{share.rate:.4f}: {text}, 95% interval {low:.4f} to {high:.4f}"
    return text

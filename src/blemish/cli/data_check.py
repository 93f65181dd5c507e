"""`blemish data check`."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli.inspect import make_folder
from blemish.cli.interruptions import when_interrupted
from blemish.cli.train import Depth

if TYPE_CHECKING:
    from blemish.images import ImageContract
    from blemish.quality import Check
    from blemish.quality.outliers import Embed

COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}
SHOWN = 5
"""Cases printed of one finding."""


@when_interrupted("Nothing was written. The same command begins anew")
def check(
    source: Annotated[
        Path, typer.Argument(help="Folder or csv file with images; also a folder of several categories.")
    ],
    layout: Annotated[str, typer.Option(help="`blemish layouts` lists them.")] = "auto",
    teacher: Annotated[
        str | None,
        typer.Option(help="Who compares images; `blemish teachers` lists them. \\[default: tf_efficientnet_lite0]"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder of teachers' weights. \\[default: BLEMISH_WEIGHTS]")
    ] = None,
    embedding: Annotated[
        bool, typer.Option("--embedding/--no-embedding", help="Whether to look for bad parts among the good ones.")
    ] = True,
    depth: Annotated[Depth, typer.Option(help="What the image files hold.")] = Depth.UINT8,
    range_: Annotated[
        tuple[float, float] | None,
        typer.Option("--range", metavar="LOW HIGH", help="Range of pixel values that maps onto [0, 1]."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
) -> None:
    """Say what is wrong with a dataset before anybody trains on it.

    Example: `blemish data check photos/bottles --report bottles.html`

    Exit status 1 if something is wrong (an error), 0 if there are warnings and notes at most. Bad parts among the good
    ones are looked for where blemish\\[train] is installed.
    """
    from blemish.admission import base_contract
    from blemish.console import console
    from blemish.data import open_categories
    from blemish.quality import check as look_through
    from blemish.quality import write_quality_report

    if report:
        make_folder(report.parent)
    with console() as listener:
        datasets = open_categories(source, layout)
        for dataset in datasets.values():
            listener.say(dataset.note)
        contract = base_contract(depth.value, range_)
        embed, who = _embedding(contract, teacher, weights) if embedding else (None, "left out, as asked")
        if embed is None:
            listener.say(f"Looking for bad parts among the good ones is {who}.")
        result = look_through(datasets, contract, embed=embed, looked_for_unlike=who, listener=listener)
        if report:
            write_quality_report(report, result)
            listener.say(f"Wrote {report}.")
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        print_findings(result)
    if result.wrong:
        raise typer.Exit(1)


def _embedding(contract: ImageContract, teacher: str | None, weights: Path | None) -> tuple[Embed | None, str]:
    """What compares images, and in words who that is; or None, and why nobody does."""
    if teacher is None and (find_spec("torch") is None or find_spec("timm") is None):
        return None, "left out: blemish[train] is not installed"
    from blemish.teachers import DEFAULT_TEACHER, open_teacher
    from blemish.training.embedding import STRIDES, Embedding

    pyramid = open_teacher(teacher or DEFAULT_TEACHER, strides=STRIDES, weights=weights)
    embedding = Embedding(pyramid, contract)
    return lambda looks, tell: embedding([look.sample.path for look in looks], tell), f"teacher {pyramid.info.name}"


def print_findings(result: Check) -> None:
    """Findings on standard output, the worst first, and those images that are least like the rest."""
    for one in result.findings:
        mark = typer.style(f"{one.severity.value:8}", fg=COLOURS[one.severity.value], bold=True)
        typer.echo(f"{mark} {typer.style(one.kind.title, bold=True)} ({len(one.cases)}) {one.code}")
        for case in one.cases[:SHOWN]:
            typer.echo(f"         {'  '.join(case.files)}{': ' if case.files else ''}{case.what}")
        if len(one.cases) > SHOWN:
            typer.echo(f"         and {len(one.cases) - SHOWN} more; --json and --report show them")
        typer.echo(f"         -> {one.kind.todo}.")
    for category, ranking in result.ranking.items():
        within = f" in {category}" if len(result.ranking) > 1 else ""
        if ranking:
            typer.echo(
                f"Least like the rest{within}: " + ", ".join(f"{one.name} (z {one.z:.1f})" for one in ranking[:SHOWN])
            )
    counts = result.to_dict()["counts"]
    found = ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in counts.items() if number)
    typer.echo(f"{len(result.samples)} images: {found or 'nothing is wrong'}.", err=True)

"""`blemish diagnose`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli.interruptions import when_interrupted

if TYPE_CHECKING:
    from blemish.diagnosis import Diagnosis


@when_interrupted("Nothing was written. The same command begins anew")
def diagnose(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    source: Annotated[
        list[Path], typer.Argument(metavar="DATASET...", help="Datasets with labelled test images, or folders of them.")
    ],
    layout: Annotated[str, typer.Option(help="`blemish layouts` lists them.")] = "auto",
    weights: Annotated[
        Path | None, typer.Option(help="Folder of teachers' weights. \\[default: BLEMISH_WEIGHTS]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON document.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
) -> None:
    """Say why a model finds what it finds: leakage, its embedding of the products, separation of its scores.

    Example: `blemish diagnose all.blemish mvtec/ magnetic_tile/ --out diagnosis.html`

    Needs blemish\\[train] and the teacher's weights. What is undefined for a method is said to be so.
    """
    from blemish.cli.benchmark import categories
    from blemish.cli.inspect import make_folder
    from blemish.console import console

    if out:
        make_folder(out.parent)
    with console() as listener:
        listener.say("Starting torch.")
        from blemish.diagnosis import diagnose as look_into
        from blemish.diagnosis import write_diagnosis

        result = look_into(model, categories(source, layout, None), weights, listener)
        if out:
            write_diagnosis(out, result)
            listener.say(f"Wrote {out}.")
    if as_json:
        typer.echo(json.dumps(result.to_dict(), indent=2))
    else:
        print_diagnosis(result)


def print_diagnosis(result: Diagnosis) -> None:
    """Figures of each category and their means as tables on standard output."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    figures = result.to_dict()
    scales = max(len(one["scales"]) for one in figures["categories"].values())
    table = Table("", "gap ratio", *(f"scale {i + 1}" for i in range(scales)), "I-AUROC", "d'", "good", "bad")

    def text(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    for name, one in figures["categories"].items():
        ratios = [text(scale["ratio"]) for scale in one["scales"]] or ["undefined"] * scales
        counts = str(one["n_normal"]), str(one["n_anomalous"])
        table.add_row(name, text(one["gap_ratio"]), *ratios, text(one["auroc"]), text(one["d_prime"]), *counts)
    means = [text(figures[name]) for name in ("gap_ratio", "auroc", "d_prime")]
    table.add_row("mean", means[0], *[""] * scales, *means[1:], "", "", style="bold")
    console.print(table)
    console.print("gap ratio: teacher-student gap on defect pixels over that on good images; at 1 everything leaks")
    console.print(f"silhouette of good images by category: {text(figures['silhouette'])}")
    console.print(
        f"linear probe of the category: {text(figures['probe_accuracy'])}, chance {figures['probe_chance']:.4f}"
    )
    for name, why in figures["undefined"].items():
        console.print(f"{name} is undefined: {why}")
    if figures["left_out"]:
        console.print(f"{len(figures['left_out'])} images left out; --json and --out say why")

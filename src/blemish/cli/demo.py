"""`blemish demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blemish.cli.interruptions import when_interrupted


@when_interrupted(
    "Images that are complete and the saved state of the training stay, and the same command goes on from there"
)
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write into.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the made-up product line and of the training.")] = 0,
) -> None:
    """Make a small product line with defects, train on its good parts, inspect, write a report.

    Example: `blemish demo --out demo`
    """
    from blemish.cli.evaluate import print_tables
    from blemish.console import console
    from blemish.data import open_dataset
    from blemish.data.synthetic import make_product_line

    images, model, report = out / "gears", out / "gears.blemish", out / "report.html"
    with console() as listener:
        if not (images / "complete").is_file():
            listener.say(f"Making a product line in {images}.")
            _clear(images)
            make_product_line(images, seed=seed)
            (images / "complete").touch()
        from blemish import assembly
        from blemish.evaluation import evaluate, write_report

        detector = assembly.train(images, model, seed=seed, listener=listener)
        result = evaluate(
            detector, open_dataset(images), lambda done, total: listener.progress("inspecting", done / total)
        )
        write_report(report, result, detector)
    print_tables(result)
    typer.echo(
        f"\nOpen {report} to see what was found.\n\n"
        "Now with your own parts:\n"
        "  blemish train FOLDER_OF_GOOD_PARTS --out part.blemish\n"
        "  blemish inspect part.blemish NEW_IMAGES --heatmaps heatmaps/ --report report.html\n"
        "Or more of this product line:\n"
        f"  blemish inspect {model} {images / 'test' / 'scratch'} --heatmaps {out / 'heatmaps'}\n"
        f"  blemish info {model}"
    )


def _clear(folder: Path) -> None:
    """Remove what an interrupted demo left of its own product line."""
    import shutil

    if (folder / "train").is_dir():
        shutil.rmtree(folder)

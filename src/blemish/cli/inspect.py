"""`blemish inspect`."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from blemish.cli.interruptions import when_interrupted
from blemish.cores import usable_cores
from blemish.errors import DataError, UsageError

if TYPE_CHECKING:
    from blemish.runtime import Inspection, RuntimeChoice

Runtime = Annotated[
    str, typer.Option(help="onnxruntime, openvino, or auto: the fastest that is installed, measured once.")
]
AT_ONCE = 8
"""Images that the graph works on at the same time, at most: each takes memory for all that is between its layers."""
BEHIND = 8
"""Pictures that may wait to be written."""

COLOURS = {"OK": "green", "REVIEW": "yellow", "NG": "red", "REJECTED": "magenta"}


@when_interrupted(
    "Heat maps that were written stay; a report, a CSV file and JSON are only written at the end. The "
    "same command inspects all images anew"
)
def inspect(
    model: Annotated[Path, typer.Argument(help="A model file.")],
    paths: Annotated[list[Path], typer.Argument(help="Images, or folders of images.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object an image.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Write one row an image to this file.")] = None,
    heatmaps: Annotated[
        Path | None, typer.Option(help="Write pictures with heat map and outline into this folder.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML report to this file.")] = None,
    false_alarm_rate: Annotated[float | None, typer.Option(help="Another rate than the model file's.")] = None,
    review_rate: Annotated[float | None, typer.Option(help="Another rate than the model file's.")] = None,
    runtime: Runtime = "onnxruntime",
) -> None:
    """Say of new images whether they are good, and where they are not.

    Example: `blemish inspect bottle.blemish line1/*.png --heatmaps out/ --report out/report.html`

    An image that cannot be judged is REJECTED with the reason; that is a result, not an error.
    """
    from blemish.runtime import load

    images = list(find_images(paths))
    detector = load(
        model,
        false_alarm_rate=false_alarm_rate,
        review_rate=review_rate,
        at_once=max(1, min(AT_ONCE, usable_cores(), len(images))),
        runtime=checked_runtime(runtime),
    )
    rows: list[dict[str, Any]] = []
    if heatmaps:
        make_folder(heatmaps)

    def inspections() -> Iterator[Inspection]:
        with HeatmapWriter(heatmaps, images) if heatmaps else nullcontext() as writer:
            for path, inspection in zip(images, detector.stream(images), strict=True):
                rows.append(inspection.to_dict())
                if writer:
                    writer.write(path, inspection)
                if not as_json:
                    print_line(inspection)
                yield inspection

    if report:
        from blemish.evaluation import write_inspection_report

        make_folder(report.parent)
        write_inspection_report(report, inspections(), detector)
    else:
        for _ in inspections():
            pass
    if csv_file:
        write_csv(csv_file, rows)
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif len(rows) > 1:
        counts = Counter(row["verdict"] for row in rows)
        typer.echo(", ".join(f"{counts[name]} {name}" for name in COLOURS if counts[name]), err=True)


def checked_runtime(name: str) -> RuntimeChoice:
    """A runtime by its name, before anything is opened."""
    from blemish.runtime import check_runtime

    return check_runtime(name)


def find_images(paths: list[Path]) -> Iterator[Path]:
    """The files named, and every image file below the folders named.

    A file that does not exist is passed on, to come back REJECTED; a folder without images is an error.
    """
    from blemish.data import list_images

    for path in paths:
        if path.is_dir():
            found = list_images(path).images
            if not found:
                raise DataError("there is no image in this folder", where=path)
            yield from found
        else:
            yield path


def print_line(inspection: Inspection) -> None:
    """One line an image: verdict, p-value, path, where or why."""
    verdict = inspection.verdict.value
    p_value = "        " if inspection.p_value is None else f"p={inspection.p_value:.4f}"
    line = f"{typer.style(f'{verdict:8}', fg=COLOURS[verdict], bold=True)} {p_value}  {inspection.path}"
    if inspection.score is None:
        line += f"  {inspection.reason}: {inspection.detail}"
    elif inspection.regions:
        largest = inspection.regions[0]
        many = "s" if len(inspection.regions) > 1 else ""
        place = f"x={largest.x} y={largest.y} {largest.width}x{largest.height}"
        line += f"  {len(inspection.regions)} region{many}, strongest at {place}"
    typer.echo(line)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """One row an image; regions as JSON in one column."""
    make_folder(path.parent)
    columns = ["path", "score", "p_value", "verdict", "reason", "detail", "regions"]
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            for row in rows:
                writer.writerow({**row, "regions": json.dumps(row["regions"])})
    except OSError as error:
        raise UsageError(f"this file cannot be written: {error.strerror}", where=path) from error


def make_folder(path: Path) -> None:
    """Make a folder for results."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"this folder cannot be made: {error.strerror}", where=path) from error


class HeatmapWriter:
    """Writes one picture an image, below `folder` as the images lie below their common folder: no two meet.

    Threads draw, encode and write, a few pictures behind the inspections; leaving the context waits for them.

    Raises
    ------
    UsageError
        A picture cannot be written; from a later `write` or from leaving the context.
    """

    def __init__(self, folder: Path, images: list[Path]) -> None:
        self.folder = folder
        self._threads = ThreadPoolExecutor(max_workers=usable_cores())
        self._open: deque[Future[None]] = deque()
        parents = {path.resolve().parent for path in images}
        self.common = next(iter(parents)) if len(parents) == 1 else _common(parents)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._threads:
            while self._open and exception[0] is None:
                self._open.popleft().result()

    def write(self, path: Path, inspection: Inspection) -> None:
        """Write the picture of an inspection; a rejected image has none."""
        if len(self._open) >= BEHIND:
            self._open.popleft().result()
        self._open.append(self._threads.submit(self._write, path, inspection))

    def _write(self, path: Path, inspection: Inspection) -> None:
        from blemish.pictures import png

        picture = inspection.picture()
        if picture is None:
            return
        below = path.resolve().relative_to(self.common)
        target = self.folder / below.with_name(below.name + ".png")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(png(picture))
        except OSError as error:
            raise UsageError(f"this picture cannot be written: {error.strerror}", where=target) from error


def _common(parents: set[Path]) -> Path:
    return Path(os.path.commonpath([str(parent) for parent in parents]))

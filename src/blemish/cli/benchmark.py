"""`blemish benchmark`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli.interruptions import when_interrupted
from blemish.cli.train import Device, Preset, parse_settings
from blemish.errors import UsageError

if TYPE_CHECKING:
    from blemish.data import Dataset


@when_interrupted("What was finished stays in --out, and the same command goes on from there")
def benchmark(
    dataset: Annotated[list[Path], typer.Option("--dataset", help="A dataset, or a folder of categories; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for results; the same folder again goes on where it was.")],
    methods: Annotated[
        str | None, typer.Option(help="Names with commas between; `blemish methods` lists them.")
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="survey-4: the survey's methods, its accuracy and speed beside the measured.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="one-class, one-for-all, contaminated, contaminated-overlap, semantic or a YAML file.")
    ] = "one-class",
    classes: Annotated[str | None, typer.Option(help="Only these categories, with commas between.")] = None,
    seeds: Annotated[str, typer.Option(help="Each method is trained once with each.")] = "0",
    layout: Annotated[str, typer.Option(help="`blemish layouts` lists them.")] = "auto",
    teacher: Annotated[str | None, typer.Option(help="`blemish teachers` lists them.")] = None,
    preset: Annotated[Preset, typer.Option(help="Whose schedule; auto is fast without a GPU.")] = Preset.AUTO,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="METHOD.KEY=VALUE", help="A hyper-parameter of one method; repeatable."),
    ] = None,
    hold_out: Annotated[
        float | None, typer.Option(help="Share of the training images that calibrate. \\[default: 0.2]")
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="What to print, with commas between; the CSV file holds everything.")
    ] = "image_auroc,pixel_auroc,aupro,mad",
    weights: Annotated[Path | None, typer.Option(help="Folder of teachers' weights.")] = None,
    device: Annotated[Device, typer.Option(help="Where to train.")] = Device.AUTO,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep the model files.")] = False,
) -> None:
    """Train and judge several methods on several categories, and print tables beside the published figures.

    Example: `blemish benchmark --dataset mvtec/ --methods rd,patchcore,padim --protocol one-class --out runs/one-class`

    Killed anywhere, it goes on where it was when the same command is given again. OUT gets results.jsonl, tables
    as PROTOCOL.csv, .md and .html, and in draws/ the lists of images that slipped into training.
    """
    from blemish.console import console

    if table not in (None, "survey-4"):
        raise UsageError(f"there is no table '{table}'", where="--table", todo="There is survey-4")
    if methods is None and table is None:
        raise UsageError("it is not said what to compare", where="--methods", todo="Name methods, or --table survey-4")
    with console() as listener:
        listener.say("Starting torch.")
        from blemish.benchmark.page import write_benchmark_page
        from blemish.benchmark.protocols import open_protocol
        from blemish.benchmark.results import write_csv
        from blemish.benchmark.running import Options, pictures_folder, run
        from blemish.benchmark.summary import Summary
        from blemish.benchmark.survey import methods as survey_methods
        from blemish.benchmark.survey import survey_table
        from blemish.metrics import TITLES
        from blemish.teachers import DEFAULT_TEACHER

        chosen = tuple(_names(metrics, "--metrics"))
        if unknown := [name for name in chosen if name not in TITLES]:
            raise UsageError(
                f"there is no metric '{unknown[0]}'", where="--metrics", todo=f"Known are {', '.join(TITLES)}"
            )
        options = Options(
            methods=tuple(_names(methods, "--methods")) if methods else survey_methods(),
            protocol=open_protocol(protocol),
            seeds=tuple(_seeds(seeds)),
            settings=_settings(set_ or []),
            teacher=teacher or DEFAULT_TEACHER,
            preset=preset.value,
            hold_out=hold_out,
            weights=weights,
            device=device.value,
            keep_models=keep_models,
            time_openvino=table is not None,
        )
        datasets = categories(dataset, layout, _names(classes, "--classes") if classes else None)
        rows = run(datasets, options, out, listener)
        summary = Summary.of(rows, options.protocol, chosen)
        written = [out / (options.protocol.name + suffix) for suffix in (".csv", ".md", ".html")]
        write_csv(written[0], rows)
        written[1].write_text(summary.markdown(), encoding="utf-8")
        write_benchmark_page(written[2], summary, pictures_folder(out, options.protocol))
        if table:
            written.append(out / f"{table}.md")
            written[-1].write_text(survey_table(rows), encoding="utf-8")
        listener.say(f"Wrote {', '.join(map(str, written))}.")
    summary.print()
    if table:
        typer.echo(survey_table(rows))
    if any(row.error for row in rows):
        raise typer.Exit(1)


def _names(text: str, option: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("it names nothing", where=option)
    if len(set(names)) < len(names):
        raise UsageError("it names something twice", where=option)
    return names


def _seeds(text: str) -> list[int]:
    try:
        return [int(name) for name in _names(text, "--seeds")]
    except ValueError as error:
        raise UsageError(f"seeds are whole numbers with commas between, not '{text}'", where="--seeds") from error


def _settings(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """`["padim.strides=[8,16]"]` -> settings by method."""
    settings: dict[str, dict[str, Any]] = {}
    for key, value in parse_settings(pairs).items():
        method, point, name = key.rpartition(".")
        if not point:
            raise UsageError(f"'{key}' does not say of which method", where="--set", todo="Write METHOD.KEY=VALUE")
        settings.setdefault(method, {})[name] = value
    return settings


def categories(sources: list[Path], layout: str, classes: list[str] | None) -> dict[str, Dataset]:
    """All categories of all sources by name; where two sources share a name, each takes its source's before its own."""
    from blemish.data import open_categories

    found = [(source.resolve().name, open_categories(source, layout)) for source in sources]
    names = [name for _, datasets in found for name in datasets]
    together = {
        (f"{source}-{name}" if names.count(name) > 1 else name): dataset
        for source, datasets in found
        for name, dataset in datasets.items()
    }
    if len(together) < len(names):
        raise UsageError("a dataset is named twice", where="--dataset")
    if classes is None:
        return together
    if missing := [name for name in classes if name not in together]:
        raise UsageError(
            f"there is no category '{missing[0]}'", where="--classes", todo=f"There are {', '.join(together)}"
        )
    return {name: together[name] for name in classes}

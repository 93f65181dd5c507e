"""The verbs, put together."""

from __future__ import annotations

import typer

from blemish.cli import (
    benchmark,
    data,
    demo,
    diagnose,
    evaluate,
    export,
    extend,
    info,
    inspect,
    listings,
    station,
    station_work,
    teachers,
    train,
)

app = typer.Typer(
    name="blemish",
    help="Finds what is wrong with a product from pictures of good ones.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(demo.demo)
app.command()(train.train)
app.command()(extend.extend)
app.command()(inspect.inspect)
app.command()(evaluate.evaluate)
app.command()(benchmark.benchmark)
app.command()(diagnose.diagnose)
app.command()(info.info)
app.command()(export.export)
app.command()(listings.methods)
app.add_typer(teachers.teachers)
app.command()(listings.layouts)
app.add_typer(data.data)
app.command()(station.station)
app.add_typer(station.people, name="station-user")
app.command("station-train", hidden=True)(station_work.train)
app.command("station-score", hidden=True)(station_work.score)


def _version(asked: bool) -> None:
    if asked:
        from blemish import __version__

        typer.echo(f"blemish {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass

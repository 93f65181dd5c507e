"""`blemish data get`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from blemish.cli.interruptions import when_interrupted
from blemish.errors import DataError, UsageError


@when_interrupted("What was downloaded stays, and the same command goes on from there; nothing is left half unpacked")
def get(
    name: Annotated[str, typer.Argument(help="A dataset that Blemish knows.")],
    out: Annotated[Path | None, typer.Option(help="Folder to unpack it into: new, or empty. \\[default: NAME]")] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="You have read the dataset's licence and keep to it.")
    ] = False,
) -> None:
    """Download a dataset whose licence allows it, check it and unpack it.

    Example: `blemish data get visa --out datasets/visa --accept-licence`

    The files come into OUT.download first, and stay there. A download that was cut or killed goes on where it was
    when the same command is given again.
    """
    from blemish.console import console
    from blemish.data import catalog
    from blemish.data.download import download
    from blemish.data.extraction import check_target, extract

    entry = catalog.find_entry(name)
    folder = (out or Path(name)).resolve()
    if not entry.files:
        raise DataError(
            f"Blemish does not download {entry.title}: its home asks for a form, a login or a consent first. "
            f"Its licence is {entry.licence}",
            where=name,
            todo=f"Get it from {entry.home} and unpack it into {folder}",
        )
    check_target(folder)
    if not accept_licence:
        raise UsageError(
            f"{entry.title} comes under the licence {entry.licence}, which you have to accept",
            where=name,
            todo=f"Read it at {entry.home}, then add --accept-licence",
        )
    store = folder.with_name(f"{folder.name}.download")
    archives = [store / file.name for file in entry.files]
    with console() as listener:
        listener.say(f"{entry.title}, licence {entry.licence}, {entry.home}")
        for file, archive in zip(entry.files, archives, strict=True):
            download(file, archive, listener)
        extract(archives, folder, listener)
        listener.say(f"The files as downloaded stay in {store}; it can be deleted.")
    start = _where_it_begins(folder)
    typer.echo(start)
    typer.echo(f"Next: blemish train {start} --out {name}.blemish", err=True)


def _where_it_begins(folder: Path) -> Path:
    """Below the folders that hold nothing but one folder: many archives wrap what they hold."""
    while True:
        inside = list(folder.iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            return folder
        folder = inside[0]

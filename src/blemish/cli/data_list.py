"""`blemish data list`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from blemish.cli.listings import Json, show

if TYPE_CHECKING:
    from blemish.data.catalog import Count, Entry


def list_datasets(
    name: Annotated[str | None, typer.Argument(help="A dataset, to see everything about it.")] = None,
    as_json: Json = False,
) -> None:
    """List the datasets of the field: their size, their licence and where they are to be had.

    Example: `blemish data list visa`
    """
    from blemish.data.catalog import catalog, find_entry

    if name is not None:
        entry = find_entry(name)
        if as_json:
            typer.echo(json.dumps(entry.model_dump(mode="json"), indent=2))
        else:
            _show_entry(entry)
        return
    entries = catalog().values()
    if as_json:
        typer.echo(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=2))
        return
    show(
        [
            {
                "name": entry.name,
                "title": entry.title,
                "categories": entry.categories,
                "images": _images(entry),
                "licence": entry.licence,
                "direct download": bool(entry.files),
            }
            for entry in entries
        ],
        as_json=False,
    )
    typer.echo("Everything about one: blemish data list NAME", err=True)


def _show_entry(entry: Entry) -> None:
    from rich.console import Console
    from rich.table import Table

    facts = {
        "layout": entry.layout,
        "categories": str(entry.categories),
        "images": _images(entry),
        "split": entry.split,
        "licence": entry.licence,
        "home": entry.home,
        "citation": entry.citation,
        "files": "\n".join(_file_lines(entry)) or "no direct download: get them from its home",
    }
    table = Table(show_header=False, title=entry.title)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for fact, value in facts.items():
        table.add_row(fact, value)
    Console(highlight=False).print(table)


def _file_lines(entry: Entry) -> list[str]:
    lines = []
    for file in entry.files:
        lines.append(f"{file.url}{'' if file.bytes is None else f' ({file.bytes:,} bytes)'}")
        lines += [file.digest] if file.digest else []
    return lines


def _images(entry: Entry) -> str:
    """In words, such as: 5 train, 40 test (40 anomalous)."""
    parts = (_count(count, "" if part == "all" else part) for part, count in entry.images.items())
    return ", ".join(parts) or "not verified"


def _count(count: Count, part: str) -> str:
    text = f"{count.total:,} {part}".strip()
    return f"{text} ({count.anomalous:,} anomalous)" if count.anomalous else text

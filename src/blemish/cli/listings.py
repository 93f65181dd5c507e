"""`blemish methods`, `blemish layouts`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def methods(as_json: Json = False) -> None:
    """List the methods and their hyper-parameters.

    Example: `blemish methods`
    """
    from blemish.methods import list_methods

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "title": method.title,
            "settings": {
                key: {"default": field.default, "description": field.description}
                for key, field in method.Config.model_fields.items()
            },
            "fast": method.fast,
        }
        for name, method in list_methods().items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo(typer.style(row["name"], bold=True) + f"  {row['title']}")
        for key, setting in row["settings"].items():
            fast = f" (fast preset: {row['fast'][key]})" if key in row["fast"] else ""
            typer.echo(f"    {key}={setting['default']}{fast}  {setting['description']}")


def layouts(as_json: Json = False) -> None:
    """List the layouts of image folders that are understood.

    Example: `blemish layouts`
    """
    from blemish.data import layouts as known

    show([{"name": name, "title": title} for name, title in known().items()], as_json)


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print rows, which have the same keys, as a table or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    name, *others = rows[0]
    table = Table()
    # The name is what a person types next: it is never cut.
    table.add_column(name, no_wrap=True, min_width=max(len(row[name]) for row in rows))
    for other in others:
        table.add_column(other, overflow="fold")
    for row in rows:
        table.add_row(*("yes" if value is True else "no" if value is False else str(value) for value in row.values()))
    Console(highlight=False).print(table)

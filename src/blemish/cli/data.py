"""`blemish data`: the verbs about datasets, put together."""

from __future__ import annotations

import typer

from blemish.cli import data_list

data = typer.Typer(name="data", help="Datasets of the field.", no_args_is_help=True)
data.command("list")(data_list.list_datasets)

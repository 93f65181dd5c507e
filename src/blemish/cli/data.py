"""`blemish data`: the verbs about datasets."""

from __future__ import annotations

import typer

from blemish.cli import data_get

data = typer.Typer(name="data", help="Get the datasets of the field.", no_args_is_help=True)
data.command()(data_get.get)

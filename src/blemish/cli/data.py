"""`blemish data ...`: verbs about datasets."""

from __future__ import annotations

import typer

from blemish.cli import data_check

app = typer.Typer(help="Look after datasets.", no_args_is_help=True)
app.command("check")(data_check.check)

"""`blemish data`: the verbs about datasets, put together."""

from __future__ import annotations

import typer

from blemish.cli import data_check, data_get, data_list

data = typer.Typer(name="data", help="Datasets: list, download, check.", no_args_is_help=True)
data.command("list")(data_list.list_datasets)
data.command("get")(data_get.get)
data.command("check")(data_check.check)

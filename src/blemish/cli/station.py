"""`blemish station` and `blemish station-user`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from blemish.cli.inspect import checked_runtime
from blemish.cli.interruptions import when_interrupted
from blemish.errors import UsageError

if TYPE_CHECKING:
    from blemish.station.people import People

Data = Annotated[Path, typer.Option(help="Folder for pictures, copies of model files and the embedded database.")]
Database = Annotated[
    str | None, typer.Option("--db", help="postgresql://USER:PASSWORD@HOST/NAME; default is SQLite in --data.")
]
Name = Annotated[
    str | None,
    typer.Option(help="Name of this station, which stands in every inspection; needed where stations share a --db."),
]

DATA = Path("station-data")


@when_interrupted("What was answered is stored. The same command starts the station again")
def station(
    models: Annotated[
        Path | None, typer.Option(help="Folder of model files; new ones are taken in while it runs.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of settings, sources and sinks; options given here overrule it.", dir_okay=False),
    ] = None,
    db: Database = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures, copies of model files and the embedded database; default station-data."
        ),
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(help="Folder or URL, as s3://BUCKET/LINE, for images and heat maps; default is --data."),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen at; default 127.0.0.1; any but this machine's own needs accounts."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen at; default 8000; 0 takes a free one.", min=0, max=65535)
    ] = None,
    name: Name = None,
    queue: Annotated[
        int | None, typer.Option(help="Images that may wait for a model; default 64; more are answered 429.", min=1)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads for each model; default shares the cores out.", min=1)
    ] = None,
    runtime: Annotated[
        str | None, typer.Option(help="What runs the graphs: onnxruntime, openvino or auto; default onnxruntime.")
    ] = None,
    training_folder: Annotated[
        list[Path] | None,
        typer.Option(help="Folder below which admins may train on images; repeatable. Without it, none."),
    ] = None,
    connection_folder: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder in which admins may have folders watched and CSV files written; repeatable. "
            "Without it, wherever the station may."
        ),
    ] = None,
    training_threads: Annotated[
        int | None, typer.Option(help="Threads of a training; default is half of the cores.", min=1)
    ] = None,
    audit_share: Annotated[
        float | None,
        typer.Option(
            help="Share of images that people are to review in any case, to calibrate by; default 0.01.", min=0, max=1
        ),
    ] = None,
    max_body: Annotated[int | None, typer.Option(help="Largest request, in MiB; default 64.", min=1)] = None,
    drain: Annotated[
        float | None, typer.Option(help="Seconds in which open work is finished after SIGTERM; default 30.")
    ] = None,
    keep_ok: Annotated[
        float | None, typer.Option(help="Days for which pictures of OK and REJECTED parts are kept; default 30.")
    ] = None,
    keep_review: Annotated[
        float | None, typer.Option(help="Days for which pictures of REVIEW parts are kept; default 180.")
    ] = None,
    keep_ng: Annotated[
        float | None, typer.Option(help="Days for which pictures of NG parts are kept; default 365.")
    ] = None,
    keep_gib: Annotated[
        float | None, typer.Option(help="GiB that all pictures may take; beyond, the oldest go early.")
    ] = None,
) -> None:
    """Run the inspection station: an HTTP service that inspects images and remembers every decision.

    Example: `blemish station --models models/`, or `blemish station --config station.yaml`

    Pictures of reviewed parts are kept until there is no room. SIGTERM and Ctrl-C finish open work first.
    """
    from blemish.console import Console
    from blemish.station.configuration import make_settings, read_configuration
    from blemish.station.serving import serve
    from blemish.station.settings import MEBIBYTE, is_url

    if models is None and config is None:
        raise UsageError("the station needs a folder of model files", where="--models", todo="Or name a --config file")
    given = _given(
        models=None if models is None else models.absolute(),
        database=db,
        data=None if data is None else data.absolute(),
        pictures=pictures if pictures is None or is_url(pictures) else str(Path(pictures).absolute()),
        host=host,
        port=port,
        name=name,
        queue=queue,
        threads=threads,
        runtime=None if runtime is None else checked_runtime(runtime),
        training_folders=tuple(path.absolute() for path in training_folder) if training_folder else None,
        connection_folders=tuple(path.absolute() for path in connection_folder) if connection_folder else None,
        training_threads=training_threads,
        audit_share=audit_share,
        max_body_bytes=None if max_body is None else max_body * MEBIBYTE,
        drain_seconds=drain,
    )
    keep = _given(
        ok_days=keep_ok,
        rejected_days=keep_ok,
        review_days=keep_review,
        ng_days=keep_ng,
        max_bytes=None if keep_gib is None else round(keep_gib * 1024 * MEBIBYTE),
    )
    values: dict[str, Any] = {"data": DATA}
    if config is not None:
        values |= read_configuration(config)
    if keep and isinstance(values.get("retention", {}), dict):
        given["retention"] = {**values.get("retention", {}), **keep}
    serve(make_settings(values | given, config.absolute().parent if config is not None else Path()), Console())


people = typer.Typer(help="Who may sign in to the station, and which machines have a token.", no_args_is_help=True)

Role = Annotated[str, typer.Option(help="viewer, reviewer or admin.")]
PasswordFile = Annotated[
    Path | None, typer.Option(help="File whose first line is the password; default is to ask for it.")
]


@people.command("add")
def add_account(
    name: Annotated[str, typer.Argument(help="Name to sign in with.")],
    role: Role = "viewer",
    password_file: PasswordFile = None,
    data: Data = DATA,
    db: Database = None,
) -> None:
    """Let a person sign in. A viewer looks, a reviewer also inspects and reviews, an admin does everything.

    Example: `blemish station-user add shift-lead --role admin`
    """
    if role not in ("viewer", "reviewer", "admin"):
        raise UsageError(f"there is no role {role}", where="--role", todo="Choose viewer, reviewer or admin")
    _people(data, db).add_account(name, role, _password(password_file), "command line")  # type: ignore[arg-type]
    typer.echo(f"{name} may sign in as {role}.")


@people.command("password")
def set_password(
    name: Annotated[str, typer.Argument(help="Name of the account.")],
    password_file: PasswordFile = None,
    data: Data = DATA,
    db: Database = None,
) -> None:
    """Give an account another password, and end its sign-ins."""
    _people(data, db).set_password(name, _password(password_file), "command line")
    typer.echo(f"{name} has a new password.")


@people.command("remove")
def remove_account(
    name: Annotated[str, typer.Argument(help="Name of the account.")], data: Data = DATA, db: Database = None
) -> None:
    """Take an account away, and end its sign-ins."""
    _people(data, db).remove_account(name, "command line")
    typer.echo(f"{name} may not sign in any more.")


@people.command("list")
def list_people(data: Data = DATA, db: Database = None) -> None:
    """List accounts and tokens."""
    people = _people(data, db)
    for account in people.accounts():
        typer.echo(f"account  {account.role:8}  {account.name}")
    for token in people.tokens():
        typer.echo(f"token    {token.role:8}  {token.name}")


@people.command("token")
def add_token(
    name: Annotated[str, typer.Argument(help="Name of the machine.")],
    role: Annotated[str, typer.Option(help="viewer, machine, reviewer or admin; a machine looks and inspects.")] = (
        "machine"
    ),
    data: Data = DATA,
    db: Database = None,
) -> None:
    """Make a token for a machine and print it, this once.

    Example: `blemish station-user token camera-1`
    """
    if role not in ("viewer", "machine", "reviewer", "admin"):
        raise UsageError(f"there is no role {role}", where="--role", todo="Choose viewer, machine, reviewer or admin")
    _, secret = _people(data, db).add_token(name, role, "command line")  # type: ignore[arg-type]
    typer.echo(secret)


@people.command("remove-token")
def remove_token(
    name: Annotated[str, typer.Argument(help="Name of the machine.")], data: Data = DATA, db: Database = None
) -> None:
    """Make a token worthless."""
    _people(data, db).remove_token(name, "command line")
    typer.echo(f"The token {name} is worth nothing any more.")


def _people(data: Path, db: str | None) -> People:
    from blemish.station.people import People
    from blemish.station.settings import Settings
    from blemish.station.store import Store

    settings = Settings(models=data, data=data, database=db)
    store = Store(settings.database_url)
    store.migrate()
    return People(store, settings.name, open_without_accounts=True)


def _password(file: Path | None) -> str:
    if file is None:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        return file.read_text("utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"it cannot be read: {error}", where=file) from error


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}

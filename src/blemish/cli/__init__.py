"""The command line. Heavy imports happen inside the verbs: `blemish --help` must be instant."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `blemish`. Exit status: 0 done, 2 wrong use, 1 any other error, 130 interrupted."""
    from blemish.cli.app import app
    from blemish.errors import BlemishError

    try:
        app()
    except BlemishError as error:
        print(f"blemish: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
    except SystemExit as end:
        # Typer ends Ctrl-C with this status and without a word.
        if end.code == 130:
            print("blemish: interrupted.", file=sys.stderr)
        # The reader of a pipe has gone (`blemish inspect ... | head`): nothing is wrong, though Typer says 1.
        if isinstance(end.__context__, BrokenPipeError):
            sys.exit(0)
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("torch", "timm", "lightning_fabric", "safetensors", "onnx", "yaml"):
            what, extra = "training", "train"
        elif package in ("fastapi", "uvicorn", "sqlalchemy", "alembic", "argon2", "prometheus_client"):
            what, extra = "the station", "station"
        else:
            raise
        print(
            f"blemish: {what} needs {package}, which is not installed. Run: pip install 'blemish[{extra}]'",
            file=sys.stderr,
        )
        sys.exit(1)

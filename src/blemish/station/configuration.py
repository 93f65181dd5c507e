"""The configuration file of a station: every setting under its name in YAML, sources and sinks among them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from blemish.errors import UsageError
from blemish.station.connections.kinds import KINDS
from blemish.station.settings import Settings


def read_configuration(path: Path) -> dict[str, Any]:
    """The content of a configuration file, not yet checked.

    Raises
    ------
    UsageError
        It cannot be read, or holds something other than names with values.
    """
    try:
        return parse_configuration(path.read_text("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise UsageError(f"it cannot be read: {what}", where=path) from error


def parse_configuration(text: str, where: object) -> dict[str, Any]:
    """The content of a configuration file by its text; raises as `read_configuration` does."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise UsageError(f"it is no YAML{line}: {getattr(error, 'problem', error)}", where=where) from error
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UsageError("it must hold names with values", where=where, todo="See deploy/station.yaml for an example")
    return content


def make_settings(values: Mapping[str, Any], base: Path) -> Settings:
    """Check the values of all settings.

    Parameters
    ----------
    base : the folder from which their paths count.

    Raises
    ------
    UsageError
        A value is missing, unknown or impossible; `where` names its key.
    """
    try:
        return Settings.model_validate(values, context={"base": base})
    except ValidationError as error:
        raise _named(error, values) from error


def _named(error: ValidationError, values: Mapping[str, Any]) -> UsageError:
    """The first complaint, without the value itself, which may be a secret."""
    found = error.errors(include_input=False, include_url=False)[0]
    key = ""
    here: Any = values
    for part in found["loc"]:
        if isinstance(part, int):
            here = here[part] if isinstance(here, list | tuple) and part < len(here) else None
            name = here.get("name") if isinstance(here, dict) else None
            key += f"[{part}]" if not isinstance(name, str) else f".{name}"
        elif part not in KINDS:
            here = here.get(part) if isinstance(here, dict) else None
            key += f".{part}" if key else part
    message = str(found["msg"]).removeprefix("Value error, ")
    todo = None
    if found["type"] == "extra_forbidden":
        message, todo = "there is no such key", "Check its spelling, or leave it out"
    elif found["type"] == "missing":
        message = "this key is missing"
    elif found["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key, message = f"{key}.kind", f"kind must be one of {found['ctx'].get('expected_tags', _tags(key))}"
    return UsageError(message, where=key or None, todo=todo)


def _tags(key: str) -> str:
    return "'folder', 'camera'" if key.startswith("sources") else "'webhook', 'mqtt', 'csv'"

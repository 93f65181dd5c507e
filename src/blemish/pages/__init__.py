"""The page that every report shares: one HTML file that stands alone, its style sheet, and how it is written.

Nothing in it comes from a network and nothing in it runs: the page's own policy forbids both, since names of files and
folders are not to be trusted. A report is a template of its own room that extends `page.html.jinja`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from blemish import __version__
from blemish.errors import BlemishError


@dataclass(frozen=True)
class Tile:
    """A large figure, what it is, and what to know about it. `style` is a class of the style sheet."""

    figure: str
    label: str
    note: str = ""
    style: str = ""


def counted(count: int, thing: str) -> str:
    """Such as 1 image, 2 images."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def percent(share: float) -> str:
    """A share as per cent, to three digits."""
    return f"{100 * share:.3g} %"


def write_page(path: str | os.PathLike[str], package: str, template: str, **content: Any) -> None:
    """Fill a template that extends `page.html.jinja` and write it.

    Parameters
    ----------
    path : the HTML file to write; folders are made, an existing file is replaced.
    package : the package whose folder templates/ holds `template`.
    content : what the template shows. Text is escaped.

    Raises
    ------
    BlemishError : the file cannot be written.
    """
    page = (
        _environment(package)
        .get_template(template)
        .render(**content, version=__version__, made=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"))
    )
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A file name that is not Unicode has no UTF-8 form.
        target.write_text(page, encoding="utf-8", errors="replace")
    except OSError as error:
        raise BlemishError(
            f"the report cannot be written ({error.strerror})", where=target, todo="Name a file that can be"
        ) from error


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("blemish.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["counted"] = counted
    return environment

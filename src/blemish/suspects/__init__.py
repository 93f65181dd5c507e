"""Training images that may be bad parts: which they are, and a page that shows them."""

from __future__ import annotations

from blemish.suspects.judging import SUSPECT, Ruling, judge
from blemish.suspects.page import (
    Shown,
    in_one_line,
    page_beside,
    warning,
    worth_showing,
    write_page_of_suspects,
)

__all__ = [
    "SUSPECT",
    "Ruling",
    "Shown",
    "in_one_line",
    "judge",
    "page_beside",
    "warning",
    "worth_showing",
    "write_page_of_suspects",
]

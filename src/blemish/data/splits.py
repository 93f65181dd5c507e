"""The split of normal images where the data bring none."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from pathlib import Path

TRAIN_SHARE = 0.8


def train_share(images: Iterable[Path]) -> frozenset[Path]:
    """The 80 % of `images` (rounded to the nearest whole number) that train.

    They are the first when sorted by the SHA-1 of the file's name, so the split is the same on every machine, wherever
    the folder lies, and files numbered in the order of their making are spread over both parts.
    """
    ordered = sorted(images, key=lambda path: (_name_hash(path.name), path.as_posix()))
    return frozenset(ordered[: round(TRAIN_SHARE * len(ordered))])


def _name_hash(name: str) -> str:
    # macOS stores names decomposed, others composed: the same name must hash the same.
    return hashlib.sha1(
        unicodedata.normalize("NFC", name).encode("utf-8", "surrogateescape"), usedforsecurity=False
    ).hexdigest()

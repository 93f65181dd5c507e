"""The datasets that Blemish knows by name: their licence, their home, and their files where the licence lets anyone
download them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from blemish.data.download import RemoteFile
from blemish.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """One dataset. `files` is empty where its home asks for a form or a login first."""

    name: str
    title: str
    licence: str
    home: str
    files: tuple[RemoteFile, ...] = ()


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("mvtec-ad", "MVTec AD", "CC BY-NC-SA 4.0", "https://www.mvtec.com/company/research/datasets/mvtec-ad"),
        Entry(
            "visa",
            "Visual Anomaly (VisA)",
            "CC BY 4.0",
            "https://github.com/amazon-science/spot-diff",
            (RemoteFile("https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar"),),
        ),
    )
}


def find_entry(name: str) -> Entry:
    """The dataset called so.

    Raises
    ------
    UsageError : there is none.
    """
    if name not in ENTRIES:
        close = difflib.get_close_matches(name.lower(), ENTRIES, n=1)
        meant = f' Did you mean "{close[0]}"?' if close else ""
        raise UsageError(f'there is no dataset "{name}"', todo=f"Known are {', '.join(ENTRIES)}.{meant}")
    return ENTRIES[name]

"""What the pages say, in every language: one table a language, texts/CODE.toml.

A text is named by its section and key, such as review.title. `{name}` in it is filled in. Texts of the section `script`
go to the browser, for our JavaScript.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from typing import Final

from starlette.requests import HTTPConnection

from blemish.station.errors import Complaint

COOKIE: Final = "blemish_language"


class Texts:
    """The texts of one language.

    Attributes
    ----------
    code : of the language, as in the name of its file. tag : as HTML wants it. name : of the language, in itself.
    scripts : what our JavaScript says, by key, with code_CODE, why_REASON, verdict_VERDICT, label_LABEL and
        field_COMPLAINT.
    """

    def __init__(self, code: str, table: dict[str, dict[str, str]]) -> None:
        self.code = code
        self.tag = table["language"]["tag"]
        self.name = table["language"]["name"]
        self.scripts = dict(table["script"])
        for section, start in (
            ("error", "code"),
            ("why", "why"),
            ("verdict", "verdict"),
            ("label", "label"),
            ("field", "field"),
        ):
            self.scripts |= {f"{start}_{key}": text for key, text in table[section].items()}
        self.all = {f"{section}.{key}": text for section, keys in table.items() for key, text in keys.items()}

    def __call__(self, key: str, /, **values: object) -> str:
        """A text, filled in.

        Raises
        ------
        KeyError
            There is no such text, or a value for it is missing.
        """
        return self.all[key].format_map(values)

    def of_field(self, complaint: Complaint) -> str:
        """What is wrong with one field of what was sent."""
        sentence = self.all.get(f"field.{complaint.code}", self.all["field.other"])
        return sentence.format_map({"message": complaint.message, **complaint.values})


def _read(code: str) -> Texts:
    return Texts(code, tomllib.loads((files(__package__) / "texts" / f"{code}.toml").read_text("utf-8")))


LANGUAGES: Final[dict[str, Texts]] = {code: _read(code) for code in ("en", "zh")}
"""By code; the first is for those who prefer none of them."""


def language_of(request: HTTPConnection) -> Texts:
    """The language that was chosen here, or else the first that the browser prefers."""
    chosen = LANGUAGES.get(request.cookies.get(COOKIE, ""))
    if chosen is not None:
        return chosen
    for tag in _preferred(request.headers.get("accept-language", "")):
        known = LANGUAGES.get(tag.partition("-")[0].lower())
        if known is not None:
            return known
    return next(iter(LANGUAGES.values()))


def _preferred(header: str) -> list[str]:
    """The languages of an Accept-Language header, the most wanted first."""
    wanted = []
    for part in header.split(",")[:50]:
        tag, _, weight = part.strip().partition(";q=")
        try:
            wanted.append((-float(weight or 1), tag.strip()))
        except ValueError:
            continue
    return [tag for weight, tag in sorted(wanted, key=lambda one: one[0]) if tag and weight < 0]

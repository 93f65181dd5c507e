"""The report of a check: every finding with pictures, in one HTML file that stands alone."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from blemish.admission import relative_name
from blemish.errors import ImageError
from blemish.images import ImageContract, read, to_display
from blemish.pages import Tile, counted, write_page
from blemish.pictures import data_uri, thumbnail
from blemish.quality.alike import ALIKE
from blemish.quality.checking import Check
from blemish.quality.findings import Case, Finding, Severity
from blemish.quality.outliers import FAR, FAR_UNLIKE

SHOWN = 12
"""Cases of a finding that are shown with pictures, and images that are least like the rest."""
FILES_SHOWN = 6
"""Pictures of a case."""
LISTED = 500
"""Cases of a finding that are listed by name below the pictures."""
SIDE = 240
"""Longer side of a picture, in pixels."""

_STYLES = {Severity.ERROR: "ng", Severity.WARNING: "review", Severity.NOTE: "rejected"}


@dataclass(frozen=True)
class Shot:
    """One picture: the file's name, the address of the picture, or None and why there is none."""

    name: str
    uri: str | None
    why: str = ""


@dataclass(frozen=True)
class Shown:
    """A case with pictures. `more` : files that are not shown. `style` : of its badge, "" without one."""

    shots: list[Shot]
    what: str
    more: int = 0
    style: str = ""


@dataclass(frozen=True)
class Section:
    """A finding, or the images least like the rest: cases with pictures, then those that are listed only."""

    anchor: str
    severity: str
    style: str
    title: str
    intro: str
    count: int
    shown: list[Shown]
    listed: Sequence[Case]
    more: int

    @property
    def single(self) -> bool:
        """Whether each case has one picture at most."""
        return all(len(one.shots) <= 1 for one in self.shown)

    @property
    def pictured(self) -> bool:
        """Whether any case is about files."""
        return any(one.shots for one in self.shown)


def write_quality_report(path: str | os.PathLike[str], check: Check) -> None:
    """Write the report of a check.

    The images it shows are read once more, small pictures of them are kept.

    Parameters
    ----------
    path : the HTML file to write; folders are made, an existing file is replaced.

    Raises
    ------
    BlemishError : the file cannot be written.
    """
    photographer = _Photographer(check)
    write_page(
        path,
        "blemish.quality",
        "quality.html.jinja",
        title=f"{check.name}: dataset check",
        subject=check.name,
        kind="Dataset check",
        place=str(check.root),
        headline=_headline(check),
        tiles=_tiles(check),
        sections=[_section(one, photographer) for one in check.findings],
        rankings=_rankings(check, photographer),
        facts=_facts(check),
    )


class _Photographer:
    """Small pictures of files, by the names that findings give them."""

    def __init__(self, check: Check) -> None:
        self.root, self.contract = check.root, check.contract
        self.paths = {relative_name(sample.path, check.root): sample.path for sample in check.samples}

    def shot(self, name: str) -> Shot:
        """The picture of a file; a mask, which is no sample, is read as a mask is."""
        path = self.paths.get(name)
        contracts = [self.contract] if path else [ImageContract(depth="uint8"), ImageContract(depth="uint16")]
        why = ""
        for contract in contracts:
            try:
                image = to_display(read(path or self.root / name, contract), contract)
                return Shot(name, data_uri(thumbnail(image, SIDE)))
            except ImageError as error:
                why = error.reason.value
        return Shot(name, None, why.replace("_", " "))


def _headline(check: Check) -> str:
    errors, warnings = check.count(Severity.ERROR), check.count(Severity.WARNING)
    if errors:
        return f"{counted(errors, 'thing')} to put right before training" + (
            f", {counted(warnings, 'thing')} to look at." if warnings else "."
        )
    if warnings:
        return f"Nothing is wrong. {counted(warnings, 'thing')} to look at."
    return "Nothing is wrong."


def _tiles(check: Check) -> list[Tile]:
    splits = Counter(sample.split for sample in check.samples)
    tiles = [
        Tile(
            str(number),
            severity.value if number == 1 else f"{severity.value}s",
            note,
            _STYLES[severity] if number else "ok",
        )
        for severity, note in (
            (Severity.ERROR, "put right before training"),
            (Severity.WARNING, "look at these"),
            (Severity.NOTE, "worth knowing"),
        )
        for number in [check.count(severity)]
    ]
    tiles.append(Tile(str(splits["train"]), "training images"))
    bad = sum(sample.split == "test" and sample.label == "anomalous" for sample in check.samples)
    tiles.append(Tile(str(splits["test"]), "test images", f"{bad} of them bad" if splits["test"] else ""))
    return tiles


def _section(one: Finding, photographer: _Photographer) -> Section:
    with_pictures = one.cases[:SHOWN]
    return Section(
        anchor=one.code,
        severity=one.severity.value,
        style=_STYLES[one.severity],
        title=one.kind.title,
        intro=f"{one.kind.todo}.",
        count=len(one.cases),
        shown=[
            Shown(
                [photographer.shot(name) for name in case.files[:FILES_SHOWN]],
                case.what,
                max(0, len(case.files) - FILES_SHOWN),
            )
            for case in with_pictures
        ],
        listed=one.cases[SHOWN : SHOWN + LISTED],
        more=max(0, len(one.cases) - SHOWN - LISTED),
    )


def _rankings(check: Check, photographer: _Photographer) -> list[Section]:
    several = len(check.ranking) > 1
    return [
        Section(
            anchor="",
            severity="",
            style="",
            title=category if several else "Least like the rest",
            intro="",
            count=len(ranking),
            shown=[
                Shown([photographer.shot(one.name)], f"z = {one.z:.1f}", style="review" if one.z > FAR_UNLIKE else "")
                for one in ranking[: SHOWN // 2 if several else SHOWN]
            ],
            listed=(),
            more=0,
        )
        for category, ranking in check.ranking.items()
        if ranking
    ]


def _facts(check: Check) -> list[tuple[str, str]]:
    kinds = Counter((sample.split, sample.kind or "unlabelled") for sample in check.samples)
    held = ", ".join(f"{number} {split}/{kind}" for (split, kind), number in sorted(kinds.items(), reverse=True))
    facts = [("Images", held), ("How they were found", check.note)]
    if len(check.categories) > 1:
        facts.insert(0, ("Categories", ", ".join(check.categories)))
    if check.looks:
        sizes = Counter(f"{look.facts.width} x {look.facts.height}" for look in check.looks)
        usual, number = sizes.most_common(1)[0]
        grey = sum(look.facts.grey for look in check.looks)
        others = f", {counted(len(sizes) - 1, 'other size')}" if len(sizes) > 1 else ""
        facts.append(("Sizes", f"{usual} ({number} images){others}"))
        facts.append(("Colour", f"{grey} grey, {len(check.looks) - grey} in colour"))
    contract = check.contract
    facts += [
        ("Read as", f"{contract.depth}, range {contract.low:g} to {contract.high:g}"),
        (
            "Nearly the same",
            f"correlation of {ALIKE:g} or more between small images, without their shading and without what the "
            "category shares",
        ),
        (
            "Outliers",
            f"{FAR:g} robust standard deviations from the median of the good images: of mean brightness, and of the "
            "logarithm of the variance of the Laplacian",
        ),
        (
            "Bad among the good",
            f"{check.looked_for_unlike}; an image counts as unlike the rest where its strangest place is more than "
            f"{FAR_UNLIKE:g} robust standard deviations farther from all other images than is usual, on a logarithmic "
            "scale"
            if check.ranking
            else check.looked_for_unlike,
        ),
    ]
    return facts

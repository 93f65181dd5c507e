"""The check itself: everything that is looked for in a dataset, put together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blemish.console import Listener, Silent
from blemish.data import Dataset, Sample, combine
from blemish.errors import Reason
from blemish.images import DEFAULT_CONTRACT, ImageContract
from blemish.quality import alike, outliers, truth
from blemish.quality.findings import Case, Finding, Kind, Severity, finding
from blemish.quality.looking import Look, Refused, look_at_all
from blemish.quality.outliers import Embed, Ranked

EMPTY_FILE = Kind("empty_file", Severity.ERROR, "Empty files", "Copy them again, or delete them")
WRONG_DEPTH = Kind(
    "wrong_depth",
    Severity.ERROR,
    "Another depth than declared",
    "Say what the files hold: --depth uint16, or --depth float32 --range LOW HIGH; all must hold the same",
)
UNREADABLE = Kind(
    "unreadable", Severity.ERROR, "Files that cannot be read", "Copy or take them again; training leaves them out"
)

_ORDER = list(Severity)


@dataclass(frozen=True)
class Check:
    """What is wrong with a dataset.

    Parameters
    ----------
    name, root, note : the source, and how its images were found.
    samples : every sample of every category.
    findings : the worst first.
    ranking : training images of each category, those least like the rest first; empty without a teacher.
    looked_for_unlike : who looked for images that are unlike the rest, or why nobody did.
    """

    name: str
    root: Path
    note: str
    categories: tuple[str, ...]
    samples: tuple[Sample, ...]
    looks: tuple[Look, ...]
    findings: tuple[Finding, ...]
    ranking: Mapping[str, Sequence[Ranked]]
    looked_for_unlike: str
    contract: ImageContract

    @property
    def wrong(self) -> bool:
        """Whether something is wrong: a finding is an error."""
        return any(one.severity is Severity.ERROR for one in self.findings)

    def count(self, severity: Severity) -> int:
        """Number of findings that are as severe as this."""
        return sum(one.severity is severity for one in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "source": str(self.root),
            "note": self.note,
            "categories": list(self.categories),
            "images": len(self.samples),
            "readable": len(self.looks),
            "splits": dict(Counter(sample.split for sample in self.samples)),
            "wrong": self.wrong,
            "counts": {severity.value: self.count(severity) for severity in Severity},
            "findings": [one.to_dict() for one in self.findings],
            "unlike": self.looked_for_unlike,
            "ranking": {
                category: [{"file": one.name, "distance": one.distance, "z": one.z} for one in ranking]
                for category, ranking in self.ranking.items()
            },
        }


def check(
    datasets: Mapping[str, Dataset],
    contract: ImageContract = DEFAULT_CONTRACT,
    *,
    embed: Embed | None = None,
    looked_for_unlike: str = "",
    listener: Listener | None = None,
) -> Check:
    """Find out what is wrong with a dataset, or with several categories together.

    Every image is read once, and once more by `embed` if it trains. About 9 KiB are kept of each; `embed` adds what
    it returns of one category at a time.

    Parameters
    ----------
    datasets : by category, as `blemish.data.open_categories` gives them.
    contract : what the images must be.
    embed : what a teacher sees of training images; without it, nothing is said of images unlike the rest.
    looked_for_unlike : what `embed` is, or why there is none, in a few words for the report.

    Raises
    ------
    DataError : there is no dataset.
    """
    told = listener or Silent()
    whole = next(iter(datasets.values())) if len(datasets) == 1 else combine(datasets, "several categories")
    looks, refused = look_at_all(whole.samples, whole.root, contract, told)
    found = [
        *_refusals(refused),
        *alike.duplicates(looks),
        *alike.near_duplicates(looks),
        *truth.masks(list(datasets.values()), looks, whole.root, told),
        *truth.numbers(looks, list(datasets)),
    ]
    for kind, cases_of in (
        (outliers.SIZE, outliers.sizes),
        (outliers.COLOUR, outliers.colours),
        (outliers.BRIGHTNESS, outliers.brightness),
        (outliers.SHARPNESS, outliers.sharpness),
    ):
        found += finding(kind, _by_category(looks, cases_of))
    ranking = _rank(looks, embed, told) if embed else {}
    found += outliers.unlike([one for ranked in ranking.values() for one in ranked])
    return Check(
        name=whole.root.resolve().name,
        root=whole.root,
        note=whole.note,
        categories=tuple(datasets),
        samples=whole.samples,
        looks=tuple(looks),
        findings=tuple(sorted(found, key=lambda one: _ORDER.index(one.severity))),
        ranking=ranking,
        looked_for_unlike=looked_for_unlike,
        contract=contract,
    )


def _refusals(refused: Sequence[Refused]) -> list[Finding]:
    cases: dict[str, list[Case]] = defaultdict(list)
    for one in refused:
        if one.reason is Reason.TRUNCATED and one.size == 0:
            cases[EMPTY_FILE.code].append(Case((one.name,), "it has no content"))
        else:
            kind = WRONG_DEPTH if one.reason is Reason.WRONG_DEPTH else UNREADABLE
            cases[kind.code].append(Case((one.name,), f"{one.reason.value}: {one.detail}"))
    return [found for kind in (EMPTY_FILE, WRONG_DEPTH, UNREADABLE) for found in finding(kind, cases[kind.code])]


def _by_category(looks: Sequence[Look], cases_of: Callable[[Sequence[Look]], list[Case]]) -> list[Case]:
    return [case for group in _categories(looks).values() for case in cases_of(group)]


def _rank(looks: Sequence[Look], embed: Embed, listener: Listener) -> dict[str, list[Ranked]]:
    training = _categories([look for look in looks if look.sample.split == "train"])
    done, total = 0, sum(map(len, training.values()))
    ranking = {}
    for category, group in training.items():

        def tell(share: float, before: int = done, size: int = len(group)) -> None:
            listener.progress("comparing images", (before + share * size) / total)

        ranking[category] = outliers.rank(group, embed, tell)
        done += len(group)
    return ranking


def _categories(looks: Sequence[Look]) -> dict[str, list[Look]]:
    groups: dict[str, list[Look]] = defaultdict(list)
    for look in looks:
        groups[look.sample.category].append(look)
    return groups

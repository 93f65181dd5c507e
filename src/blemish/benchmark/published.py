"""Figures that papers and repositories have published, and what speaks against comparing a measured one with them.

The figures are data: `published_figures/*.toml`, one file a source. Only what was read at its source is there.

A file has `[methods]`, one entry for each method or variant of one, and `[[tables]]`. A table names what its rows and
columns are ("method", "metric", "category" or "dataset"), has the heads of its columns, and `values`: one list for each
head of a row, "-" where the source has none. `of` names the entry where neither rows nor columns are methods.
Everything else about a figure is a field of `PublishedFigure`, written once for the file, for a table or for a method,
the later of these deciding; `variant` and `note` add up. A method without `method` has that of the file, else its
entry's name. `table` is added to the source, `per_cent` says that values are printed so, and `caveats` attach words to
the figures whose fields are as they say.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

from blemish.errors import DataError, UsageError

Protocol = Literal["one-class", "one-for-all", "contaminated", "semantic"]
Selection = Literal["last step", "validation", "best epoch on test", "unknown"]
Masks = Literal["shrunk", "full size", "unknown"]

IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
PIXEL_METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "pro_per_image", "best_iou")
METRICS = (*IMAGE_METRICS, *PIXEL_METRICS, "mad", "fps")
"""What a figure may be of. `pro_per_image` is the PRO of RD4AD and its relatives, `best_iou` takes the threshold at
which it is largest, `fps` is in images a second; the others are those of `blemish.metrics`."""

MEAN = "mean"
"""The category of a figure that is the mean over all categories."""

SAME_SETTING = "same setting"

_OURS = {"pro_per_image": "aupro"}
"""The measured metric that a published one stands beside, where they are not the same."""


class PublishedDataset(NamedTuple):
    """A dataset: its title, how many categories a mean is over, and their names where there are figures of each."""

    title: str
    n_categories: int
    categories: tuple[str, ...] = ()


DATASETS: Mapping[str, PublishedDataset] = MappingProxyType(
    {
        "mvtec-ad": PublishedDataset(
            "MVTec AD",
            15,
            (
                *("bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut"),
                *("pill", "screw", "tile", "toothbrush", "transistor", "wood", "zipper"),
            ),
        ),
        "visa": PublishedDataset(
            "VisA",
            12,
            (
                *("candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2"),
                *("pcb1", "pcb2", "pcb3", "pcb4", "pipe_fryum"),
            ),
        ),
        "real-iad": PublishedDataset("Real-IAD", 30),
        "btad": PublishedDataset("BTAD", 3, ("01", "02", "03")),
        "mpdd": PublishedDataset("MPDD", 6),
        "mvtec-loco": PublishedDataset("MVTec LOCO", 5),
        "cifar-10": PublishedDataset(
            "CIFAR-10",
            10,
            ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        ),
        "cifar-100": PublishedDataset("CIFAR-100", 20),
        "fashion-mnist": PublishedDataset("Fashion-MNIST", 10),
    }
)


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """One number that somebody has published.

    Attributes
    ----------
    method : by Blemish's name, or the usual one in lower case. title : as the source prints it. variant : which of
        several, such as "S" or "100 epochs"; "" for the only one.
    dataset : a key of `DATASETS`. category : by its name in the dataset, or "mean" for the mean over all.
    protocol : as in `blemish.benchmark.protocols`. ratio : contaminated: anomalous images in training for each good
        one; None where not stated. overlap : contaminated: whether these stay in the test; None where not stated.
    metric : one of `METRICS`. value : in [0, 1]; images a second for "fps".
    source : repository, commit and file, or paper, and table.
    teacher : timm's name, with its tag where the weights are known; "none" without one, None where not stated.
    image_size : side in pixels that the network sees, None where not stated or not the same for all categories.
    selection : how the trained state was chosen.
    masks : at what size pixel metrics are taken: that of the network, or the image's own.
    held_out_share : of the training images, kept from training.
    note : anything else. caveat : what makes this one figure hard to compare; "" for nothing.
    """

    method: str
    title: str
    variant: str = ""
    dataset: str
    category: str = MEAN
    protocol: Protocol
    ratio: float | None = None
    overlap: bool | None = None
    metric: str
    value: float
    source: str
    teacher: str | None = None
    image_size: int | None = None
    selection: Selection = "unknown"
    masks: Masks = "unknown"
    held_out_share: float = 0.0
    note: str = ""
    caveat: str = ""

    @property
    def key(self) -> tuple[object, ...]:
        """What no two figures have in common."""
        what = (self.method, self.variant, self.teacher, self.image_size, self.selection)
        where = (self.dataset, self.category, self.protocol, self.ratio, self.overlap)
        return (*what, *where, self.metric, self.source)


def published_figures(
    method: str | None = None,
    dataset: str | None = None,
    protocol: str | None = None,
    metric: str | None = None,
    category: str | None = None,
    ratio: float | None = None,
) -> tuple[PublishedFigure, ...]:
    """The figures that have all the values given, in the order of the files; none where nothing was published.

    Raises
    ------
    UsageError
        If there is no such protocol or metric.
    """
    for name, value in (("protocol", protocol), ("metric", metric)):
        if value is not None and value not in _NAMES[name]:
            raise UsageError(f"no such {name}", where=value, todo=f"Choose from {', '.join(_NAMES[name])}")
    wanted = {"method": method, "dataset": dataset, "protocol": protocol, "metric": metric, "category": category}
    return tuple(
        figure
        for figure in _all_figures()
        if all(value is None or getattr(figure, name) == value for name, value in wanted.items())
        and (ratio is None or (figure.ratio is not None and math.isclose(figure.ratio, ratio)))
    )


def comparability(
    figure: PublishedFigure,
    *,
    teacher: str | None,
    image_size: int | None,
    categories: Sequence[str],
    protocol: str,
    metric: str,
    held_out_share: float,
    ratio: float | None = None,
    overlap: bool | None = None,
) -> list[str]:
    """Say in short phrases what differs between a published figure and one measured by Blemish.

    Parameters
    ----------
    figure : the published one.
    teacher : name of the measured detector's teacher, as given to training; None or "none" without one.
    image_size : side in pixels that the measured detector's network sees.
    categories : those that the measured value is of, or the mean over.
    protocol, ratio, overlap : of the measurement; the last two if contaminated.
    metric : measured metric, by its name in `blemish.metrics.Measures` or "fps".
    held_out_share : of the training images, in [0, 1), kept from training in order to calibrate.

    Returns
    -------
    The phrases, "same setting" alone where nothing is known to differ.

    Raises
    ------
    ValueError : the two are not figures of the same kind, such as I-AUROC and P-AUROC.
    """
    if metric not in (figure.metric, _OURS.get(figure.metric)):
        raise ValueError(f"{figure.metric} is not to be compared with {metric}")
    phrases = (
        *_about_training(figure, protocol, ratio, overlap, held_out_share),
        *_about_network(figure, teacher or "none", image_size),
        *_about_measuring(figure, categories, metric),
    )
    return list(phrases) or [SAME_SETTING]


def _about_training(
    figure: PublishedFigure, protocol: str, ratio: float | None, overlap: bool | None, held_out_share: float
) -> Iterator[str]:
    if figure.protocol != protocol:
        yield f"{figure.protocol}, here {protocol}"
    elif protocol == "contaminated":
        if figure.ratio is None:
            yield f"contamination not stated as a ratio{figure.note and ': ' + figure.note}"
        elif ratio is None or not math.isclose(figure.ratio, ratio):
            yield f"contamination {figure.ratio:g}" + ("" if ratio is None else f", here {ratio:g}")
        if figure.overlap is None:
            yield "overlap with the test not stated"
        elif overlap is not None and figure.overlap != overlap:
            yield f"{'with' if figure.overlap else 'without'} overlap, here {'with' if overlap else 'without'}"
    if not math.isclose(figure.held_out_share, held_out_share, abs_tol=0.005):
        published = "" if not figure.held_out_share else f", published on {1 - figure.held_out_share:.0%}"
        yield f"trained on {1 - held_out_share:.0%} of the images{published}".replace("%", " %")


def _about_network(figure: PublishedFigure, teacher: str, image_size: int | None) -> Iterator[str]:
    if figure.teacher is None:
        yield "teacher not stated"
    elif figure.teacher.partition(".")[0] != teacher.partition(".")[0]:
        yield f"other teacher: {figure.teacher}"
    elif figure.teacher != teacher:
        yield f"teacher's weights may differ: {figure.teacher}"
    if figure.image_size is None:
        yield "image size not stated"
    elif figure.image_size != image_size:
        yield f"{figure.image_size} px" + ("" if image_size is None else f", here {image_size} px")


def _about_measuring(figure: PublishedFigure, categories: Sequence[str], metric: str) -> Iterator[str]:
    n_categories = DATASETS[figure.dataset].n_categories
    if figure.category == MEAN:
        if len(categories) != n_categories:
            yield f"mean over {n_categories} categories, here {len(categories)}"
    elif tuple(categories) != (figure.category,):
        yield f"{figure.category} alone, here {', '.join(categories)}"
    if figure.selection == "best epoch on test":
        yield "best epoch on test"
    elif figure.selection == "unknown":
        yield "choice of the epoch not stated"
    if figure.metric == "pro_per_image" and metric != "pro_per_image":
        yield "PRO per image, here over all images"
    if metric == "fps":
        yield "other machine"
    elif figure.metric in (*PIXEL_METRICS, "mad"):
        if figure.masks == "shrunk":
            size = "" if figure.image_size is None else f" to {figure.image_size} px"
            yield f"masks shrunk{size}, here full size"
        elif figure.masks == "unknown":
            yield "size of masks not stated"
    if figure.caveat:
        yield figure.caveat


_FIELDS = {field.name for field in fields(PublishedFigure)}
_NAMES: dict[str, Sequence[str]] = {
    "metric": METRICS,
    "dataset": tuple(DATASETS),
    "protocol": get_args(Protocol),
    "selection": get_args(Selection),
    "masks": get_args(Masks),
}
_AXES = ("method", "metric", "category", "dataset")
_ADD_UP = {"variant": ", ", "note": "; "}
_OF_A_FILE = (_FIELDS | {"methods", "tables", "caveats", "per_cent"}) - {"value", "caveat", "metric", "category"}
_OF_A_TABLE = (_FIELDS | {"table", "of", "rows", "columns", "heads", "values", "caveats", "per_cent"}) - {
    *("value", "caveat", "method")
}
_OF_A_METHOD = _FIELDS - {"value", "caveat", "source", "metric", "category", "dataset"}
_OF_A_CAVEAT = (_FIELDS | {"says"}) - {"value", "caveat", "source"}


@cache
def _all_figures() -> tuple[PublishedFigure, ...]:
    folder = files("blemish.benchmark") / "published_figures"
    found = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    return tuple(figure for file in found for figure in read_figures(file.read_text("utf-8"), file.name))


def read_figures(text: str, where: str) -> list[PublishedFigure]:
    """The figures of one file.

    Parameters
    ----------
    text : TOML, as the module's docstring says. where : its name, for errors.

    Raises
    ------
    DataError
        If it is not TOML or not of that form, a name is unknown, a value is out of range, or a figure is there twice.
    """
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"not TOML: {error}", where=where, todo="Correct the file") from None
    _check_keys(content, _OF_A_FILE, where)
    methods: dict[str, dict[str, Any]] = content.get("methods", {})
    for head, entry in methods.items():
        _check_keys(entry, _OF_A_METHOD, f"{where}, method {head}")
    figures: list[PublishedFigure] = []
    seen: set[tuple[object, ...]] = set()
    for number, table in enumerate(content.get("tables", []), start=1):
        place = f"{where}, table {table.get('table', number)}"
        _check_keys(table, _OF_A_TABLE, place)
        common = {name: value for name, value in content.items() if name not in ("methods", "tables")}
        for figure in _of_table(common, table, methods, place):
            if figure.key in seen:
                what = f"{figure.method} {figure.variant} {figure.category} {figure.metric}"
                raise DataError(f"{what} is there twice", where=place, todo="Leave one out, or give it a variant")
            seen.add(figure.key)
            figures.append(figure)
    if not figures:
        raise DataError("it has no figures", where=where, todo="Give it [[tables]] with values")
    return figures


def _of_table(
    common: Mapping[str, Any], table: Mapping[str, Any], methods: Mapping[str, Mapping[str, Any]], place: str
) -> Iterator[PublishedFigure]:
    rows, columns, heads = table.get("rows"), table.get("columns"), table.get("heads", [])
    if rows not in _AXES or columns not in _AXES or rows == columns:
        raise DataError("rows and columns are two of " + ", ".join(_AXES), where=place, todo="Correct the table")
    per_cent = table.get("per_cent", common.get("per_cent", False))
    caveats = [*common.get("caveats", []), *table.get("caveats", [])]
    for caveat in caveats:
        _check_keys(caveat, _OF_A_CAVEAT, f"{place}, caveat")
    for row, values in table.get("values", {}).items():
        if len(values) != len(heads):
            what = f"row {row} has {len(values)} values for {len(heads)} heads"
            raise DataError(what, where=place, todo="Correct the row")
        for head, value in zip(heads, values, strict=True):
            if value == "-":
                continue
            axes = {rows: row, columns: head}
            entry = axes.pop("method", table.get("of"))
            if entry not in methods:
                raise DataError(f"no such method: {entry}", where=place, todo="Add it to [methods]")
            merged = _merge({"method": entry}, common, table, methods[entry], axes)
            yield _figure(merged, value, per_cent, caveats, f"{place}, {row}, {head}")


def _merge(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a figure, later levels deciding."""
    merged: dict[str, Any] = {}
    for level in levels:
        for name, value in level.items():
            if name in _ADD_UP and merged.get(name):
                merged[name] += _ADD_UP[name] + value
            elif name in _FIELDS:
                merged[name] = value
    table = next((level["table"] for level in levels if "table" in level), None)
    if table and "source" in merged:
        merged["source"] += f", {table}"
    return merged


def _figure(
    merged: dict[str, Any], value: object, per_cent: bool, caveats: Sequence[Mapping[str, Any]], place: str
) -> PublishedFigure:
    def wrong(what: str) -> DataError:
        return DataError(what, where=place, todo="Correct the file")

    missing = {"title", "dataset", "protocol", "metric", "source"} - {name for name, value in merged.items() if value}
    if missing:
        raise wrong(f"without {', '.join(sorted(missing))}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise wrong(f"not a number: {value!r}")
    for name, names in _NAMES.items():
        if name in merged and merged[name] not in names:
            raise wrong(f"no such {name}: {merged[name]} ({', '.join(names)})")
    category = merged.get("category", MEAN)
    if category not in (MEAN, *DATASETS[merged["dataset"]].categories):
        raise wrong(f"{DATASETS[merged['dataset']].title} has no category {category}")
    if merged["metric"] == "fps":
        if value <= 0:
            raise wrong(f"fps {value} is not positive")
        scaled = float(value)
    else:
        scaled = round(value / 100, 6) if per_cent else float(value)
        if not 0 <= scaled <= 1:
            raise wrong(f"{value} is not in [0, {100 if per_cent else 1}]")
    if merged["protocol"] != "contaminated" and not {"ratio", "overlap"}.isdisjoint(merged):
        raise wrong("ratio and overlap belong to the protocol contaminated")
    says = "; ".join(
        caveat["says"]
        for caveat in caveats
        if all(merged.get(name) == expected for name, expected in caveat.items() if name != "says")
    )
    return PublishedFigure(**merged, value=scaled, caveat=says)


def _check_keys(table: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(table.keys() - known)
    if unknown:
        raise DataError(f"unknown: {', '.join(unknown)}", where=where, todo=f"Known are {', '.join(sorted(known))}")

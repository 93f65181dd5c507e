"""Protocols: from datasets to what is trained on what, and judged on what. Each is data, a YAML file.

one-class      one model for each category
one-for-all    one model for all categories at once, results for each
contaminated   anomalous test images have slipped into training, unlabelled (fully unsupervised, as SoftPatch has it)
semantic       one class (or several) of a classification dataset is normal, the rest is anomalous

Validation is always a part of the training images that is held out: nothing is ever chosen on test images. Asking for
that is an error.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from blemish.data import Dataset, Label, Sample, combine
from blemish.errors import DataError, UsageError

ALL = "all"
"""Name of the training set in which all categories are mixed."""


class Protocol(BaseModel):
    """How a comparison is made.

    name, description : for people.
    kind : what the module's docstring says.
    ratios : contaminated: anomalous images that join training, as shares of the number n of good training images;
        int(ratio * n) of them.
    overlap : contaminated: whether the images that joined training stay in the test.
    normal : semantic: the sets of classes that are normal, by name; empty takes each class in turn.
    train_images, test_images : semantic: at most so many images of each class; None takes all. Those with the smallest
        hash of their name are taken, the same on every machine.
    validation : where thresholds come from; "held-out normal" is the only answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    kind: Literal["one-class", "one-for-all", "contaminated", "semantic"]
    description: str = ""
    ratios: tuple[float, ...] = ()
    overlap: bool = False
    normal: dict[str, tuple[str, ...]] = {}
    train_images: int | None = Field(default=None, gt=1)
    test_images: int | None = Field(default=None, gt=0)
    validation: Literal["held-out normal"] = "held-out normal"

    @field_validator("validation", mode="before")
    @classmethod
    def _never_on_test(cls, value: Any) -> Any:
        if value != "held-out normal":
            raise ValueError(
                f"'{value}': nothing is chosen or calibrated on test images; leave it out, and a part of the training "
                "images is held out"
            )
        return value

    @field_validator("ratios")
    @classmethod
    def _shares(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= ratio < 1 for ratio in ratios):
            raise ValueError("ratios lie between 0 and 1")
        return ratios

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Protocol:
        foreign = {
            "contaminated": [] if self.ratios else ["it needs ratios, such as [0.0, 0.1]"],
            "semantic": [],
        }
        wrong = foreign.get(self.kind, [])
        if self.kind != "contaminated" and (self.ratios or self.overlap):
            wrong.append("ratios and overlap belong to the kind contaminated")
        if self.kind != "semantic" and (self.normal or self.train_images or self.test_images):
            wrong.append("normal, train_images and test_images belong to the kind semantic")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    @property
    def fingerprint(self) -> str:
        """sha256 of what decides a result; the description does not."""
        content = self.model_dump(mode="json", exclude={"name", "description"})
        return _sha256(content)


@dataclass(frozen=True)
class Task:
    """One training and what it is judged on.

    name : of the training set, such as "bottle", "all" or "cat".
    setting : what else tells it from other tasks of the same name, such as "10 %"; "" for nothing.
    train : the training samples, and nothing else.
    tests : test samples of each category.
    drawn : contaminated: the images that joined training, relative to their dataset.
    overlap : whether test images that training saw are judged all the same.
    impossible : why this task cannot be; "" if it can.
    """

    name: str
    setting: str
    train: Dataset
    tests: Mapping[str, Dataset]
    drawn: tuple[str, ...] = ()
    overlap: bool = False
    impossible: str = ""

    @property
    def title(self) -> str:
        """Name and setting."""
        return f"{self.name} {self.setting}".strip()

    @property
    def training_fingerprint(self) -> str:
        """sha256 of the names of the training images.

        Their labels are nothing that training could see: they would only tell equal trainings apart.
        """
        return _sha256(sorted(_name(sample, self.train) for sample in self.train.samples))

    @property
    def fingerprint(self) -> str:
        """sha256 of the names of all images, of what the test images are, and of how they are judged."""
        tested = {name: [_line(sample, test) for sample in test.samples] for name, test in self.tests.items()}
        return _sha256([self.training_fingerprint, tested, self.overlap])


def protocols() -> dict[str, Protocol]:
    """The protocols that come with Blemish, by name."""
    folder = files("blemish.benchmark") / "protocol_files"
    found = [_parse(path.read_text("utf-8"), path.name) for path in folder.iterdir() if path.name.endswith(".yaml")]
    return {protocol.name: protocol for protocol in sorted(found, key=lambda protocol: protocol.name)}


def open_protocol(name: str) -> Protocol:
    """A protocol by its name, or from a YAML file.

    Raises
    ------
    UsageError : there is none, or the file is none.
    """
    if name.endswith((".yaml", ".yml")):
        try:
            return _parse(Path(name).read_text("utf-8"), name)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"it cannot be read: {error}", where=name) from error
    known = protocols()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        meant = f"Did you mean {close[0]}?" if close else f"Known are {', '.join(known)}, and any NAME.yaml"
        raise UsageError(f"there is no protocol '{name}'", todo=meant)
    return known[name]


def _parse(text: str, where: str) -> Protocol:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"it is not YAML: {error}", where=where) from error
    if not isinstance(content, dict):
        raise UsageError("it is not a mapping", where=where, todo="A protocol has at least name and kind")
    try:
        return Protocol.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "protocol"
        raise UsageError(
            f"{place}: {first['msg'].removeprefix('Value error, ')}",
            where=where,
            todo=f"A protocol has {', '.join(Protocol.model_fields)}",
        ) from error


def tasks(protocol: Protocol, datasets: Mapping[str, Dataset], seed: int, draws: Path) -> list[Task]:
    """What a protocol trains and judges.

    Parameters
    ----------
    datasets : each category by name.
    seed : decides which images slip into training.
    draws : folder where the drawn order is written down and read again, so that all methods, and later runs, see the
        same training images.

    Raises
    ------
    DataError : nothing to train on, or nothing that could be judged; a draw that was written down names images that
        are not there.
    """
    match protocol.kind:
        case "one-class":
            return [_one_class(name, dataset) for name, dataset in datasets.items()]
        case "one-for-all":
            return [_one_for_all(datasets)]
        case "contaminated":
            return [
                _contaminated(name, dataset, ratio, protocol.overlap, _order(name, dataset, seed, draws))
                for ratio in protocol.ratios
                for name, dataset in datasets.items()
            ]
        case "semantic":
            return [task for dataset in datasets.values() for task in _semantic(dataset, protocol)]


def _one_class(name: str, dataset: Dataset) -> Task:
    return Task(name, "", _training(dataset, _good(dataset)), {name: _testing(dataset, _labelled(dataset))})


def _one_for_all(datasets: Mapping[str, Dataset]) -> Task:
    tests = {name: _testing(dataset, _labelled(dataset)) for name, dataset in datasets.items()}
    together = combine(datasets, ALL)
    return Task(ALL, "", _training(together, _good(together)), tests)


def _contaminated(name: str, dataset: Dataset, ratio: float, overlap: bool, order: list[str]) -> Task:
    """int(ratio * n) images join the n good ones, the first of the drawn order: smaller ratios are parts of larger."""
    good = _good(dataset)
    count = int(ratio * len(good))
    drawn = tuple(order[:count])
    by_name = {_name(sample, dataset): sample for sample in dataset.test}
    joining = [by_name[one] for one in drawn]
    impossible = ""
    available = len(order) if overlap else len(order) - 1
    if count > available:
        impossible = f"{ratio:.0%} of {len(good)} are {count} anomalous images, and {len(order)} are there" + (
            "" if overlap else ", of which one at least must be left to test on"
        )
    # The setting has no labels: neither method nor calibration may know which images slipped in.
    trained = [replace(sample, label=None, split="train", mask=None) for sample in good + joining]
    left = [sample for sample in _labelled(dataset) if overlap or _name(sample, dataset) not in drawn]
    return Task(
        name,
        f"{ratio:.0%}",
        _training(dataset, trained),
        {name: _testing(dataset, left)},
        drawn,
        overlap,
        impossible,
    )


def _semantic(dataset: Dataset, protocol: Protocol) -> list[Task]:
    kinds = sorted({sample.kind for sample in dataset.samples})
    settings = protocol.normal or {kind: (kind,) for kind in kinds}
    if missing := sorted({kind for normal in settings.values() for kind in normal} - set(kinds)):
        raise DataError(
            f"there is no class '{missing[0]}'", where=dataset.root, todo=f"Its classes are {', '.join(kinds)}"
        )
    if len(kinds) < 2:
        raise DataError(
            "the protocol semantic needs several classes", where=dataset.root, todo="Such as those of cifar-10"
        )
    train = [one for kind in kinds for one in _first(dataset.train, kind, protocol.train_images)]
    test = [one for kind in kinds for one in _first(dataset.test, kind, protocol.test_images)]

    def label(sample: Sample, normal: tuple[str, ...]) -> Label:
        return "normal" if sample.kind in normal else "anomalous"

    return [
        Task(
            name,
            "",
            _training(dataset, [replace(s, label="normal") for s in train if s.kind in normal]),
            {name: _testing(dataset, [replace(sample, label=label(sample, normal)) for sample in test])},
        )
        for name, normal in settings.items()
    ]


def _first(samples: Iterable[Sample], kind: str, limit: int | None) -> list[Sample]:
    ones = [sample for sample in samples if sample.kind == kind]
    if limit is None:
        return ones
    chosen = sorted(ones, key=lambda sample: hashlib.sha1(sample.path.name.encode(), usedforsecurity=False).digest())
    kept = set(chosen[:limit])
    return [sample for sample in ones if sample in kept]


def _order(category: str, dataset: Dataset, seed: int, draws: Path) -> list[str]:
    """All anomalous test images in the order in which they slip into training; written down at the first call."""
    names = sorted(_name(sample, dataset) for sample in dataset.test if sample.label == "anomalous")
    file = draws / f"{category}-seed{seed}.json"
    if file.is_file():
        try:
            order = json.loads(file.read_text("utf-8"))["order"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("this draw is not what was written", where=file, todo="Delete it and start anew") from error
        if sorted(order) != names:
            raise DataError(
                "this draw is of other anomalous test images than the dataset has now",
                where=file,
                todo="Take another --out, or delete the draw and the results that rest on it",
            )
        return list(order)
    digest = hashlib.sha256(repr((category, seed)).encode()).digest()
    shuffled = np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(len(names))
    order = [names[i] for i in shuffled]
    draws.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps({"category": category, "seed": seed, "order": order}, indent=1), "utf-8")
    partial.replace(file)
    return order


def _good(dataset: Dataset) -> list[Sample]:
    """Training samples that are not known to be bad."""
    good = [sample for sample in dataset.train if sample.label != "anomalous"]
    if not good:
        raise DataError("there are no training images", where=dataset.root, todo="This protocol trains on good images")
    return good


def _labelled(dataset: Dataset) -> list[Sample]:
    labelled = [sample for sample in dataset.test if sample.label is not None]
    if not labelled:
        raise DataError(
            "there are no labelled test images", where=dataset.root, todo="A benchmark needs images known good or bad"
        )
    return labelled


def _training(dataset: Dataset, samples: Iterable[Sample]) -> Dataset:
    return replace(dataset, samples=tuple(replace(sample, split="train") for sample in samples))


def _testing(dataset: Dataset, samples: Iterable[Sample]) -> Dataset:
    return replace(dataset, samples=tuple(samples))


def _name(sample: Sample, dataset: Dataset) -> str:
    inside = sample.path.is_relative_to(dataset.root)
    return (sample.path.relative_to(dataset.root) if inside else sample.path).as_posix()


def _sha256(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _line(sample: Sample, dataset: Dataset) -> list[str | None]:
    mask = None if sample.mask is None else sample.mask.name
    return [_name(sample, dataset), sample.label, sample.kind, sample.category, mask]

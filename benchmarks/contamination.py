"""What bad images among the training images cost, and variants of `cdd` beside `rd`, trained on the same batches.

    python benchmarks/contamination.py mvtec/grid --ratios 0,0.2 --variants rd,cdd --seeds 0,1 --set steps=300

All variants of as many domains are trained in one run: they share the teacher's features and the domains' students,
and their own students share no parameter. Each comes out as if trained alone, to the last bit, and `cdd` as the method
itself does with these images, this seed and as many threads; another number of threads rounds otherwise. Other methods
(`rd++`, `patchcore`) may be named too, and are trained by themselves with their fast presets. Bad images
join as in the benchmark (`docs/benchmark.md`), by default in the protocol contaminated-overlap. Everything is judged by
torch: maps at the size of the image, AUPRO up to a false-positive rate of 0.3. Rows are printed as they come and
appended to --out as JSON.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from blemish.assembly import build
from blemish.benchmark.protocols import Protocol, Task, tasks
from blemish.cli.train import parse_settings
from blemish.data import Dataset, Sample, open_dataset, true_mask
from blemish.images import ImageContract, read
from blemish.methods import AnomalyMap, Features, GradientStage, Method, MethodConfig, PassStage, Stage, find_method
from blemish.methods.cdd import CrossDomainDistillation, corrected, without
from blemish.metrics import PixelRanking, auroc
from blemish.nn.preparation import Preparation
from blemish.nn.remainder import Remainder, distances, local_distance
from blemish.nn.resampling import resize
from blemish.suspects import judge
from blemish.teachers import DEFAULT_TEACHER, FeaturePyramid, open_teacher
from blemish.training import Trainer, TrainingImages


@dataclass(frozen=True)
class Variant:
    """How the targets of a global student are made.

    taught : what it is taught at doubted places: "teacher" (this is `rd`), "mean" or "median" of the domains' students,
        "agreement", at each location their mean weighted by how well a student agrees with the others (softmax of its
        mean cosine over 0.1), or "nothing".
    own : whether the student of an image's own domain takes part.
    domains : how many; redrawn : whether the images are dealt into domains anew in every epoch.
    cleaner : whether the domains' students are spared the doubted places.
    by : who doubts: "strangeness", as in `cdd`; "students", a tenth of the places of a batch, those where the map of
        the teacher against their mean is highest; "nobody", which doubts all places; "half", by strangeness, and
        elsewhere the mean of what the teacher sees and of the pseudo-normal features is taught; "truth", the defects as
        they are labelled, which no method can know: what is lost all the same is not for want of finding them; or
        "true images", all places of bad images.
    limit : how strange a doubted place is, for "strangeness".
    suspects : whether whole images that are listed as suspects are doubted too, for "strangeness".
    """

    taught: str = "mean"
    own: bool = True
    domains: int = 3
    redrawn: bool = False
    cleaner: bool = True
    by: str = "strangeness"
    limit: float = 1.4
    suspects: bool = False


VARIANTS = {
    "rd": Variant("teacher"),
    "cdd": Variant(),
    "nothing": Variant("nothing"),
    "nothing K=5": Variant("nothing", domains=5),
    "nothing K=8": Variant("nothing", domains=8),
    "limit 1_3": Variant(limit=1.3),
    "limit 1_5": Variant(limit=1.5),
    "limit 1_6": Variant(limit=1.6),
    "suspects too": Variant(suspects=True),
    "own left out": Variant(own=False),
    "median": Variant("median"),
    "agreement": Variant("agreement"),
    "K=2": Variant(domains=2),
    "K=5": Variant(domains=5),
    "redrawn": Variant(redrawn=True),
    "not cleaner": Variant(cleaner=False),
    "everywhere": Variant(by="nobody"),
    "halfway": Variant(by="half"),
    "everywhere own left out": Variant(own=False, by="nobody"),
    "by students": Variant(by="students", cleaner=False),
    "truth": Variant(by="truth"),
    "truth nothing": Variant("nothing", by="truth"),
    "truth images": Variant("nothing", by="true images"),
    "everywhere not cleaner": Variant(own=False, by="nobody", cleaner=False),
}


class Panel(CrossDomainDistillation):
    """Several global students beside one set of domains' students."""

    name = "panel"
    variants: dict[str, Variant]
    truth: Tensor
    """Of every training image where its defects are, N x S x S."""

    def __init__(self, config: Any, teacher: FeaturePyramid) -> None:
        super().__init__(config, teacher)
        one = nn.Sequential(self.bottleneck, self.student)
        self.globals = nn.ModuleDict({name: copy.deepcopy(one) for name in self.variants})
        self.remainders = nn.ModuleDict(
            {name: Remainder(len(teacher.info.channels)) for name in self.variants if self.remainder is not None}
        )
        self.calls = 0

    def stages(self, images: int) -> Iterator[Stage]:
        self.images, self.seed = images, torch.initial_seed()
        # One by one: the trainer seeds each stage's draws before it asks for the stage, the domains' among them.
        for stage in super().stages(images):
            if isinstance(stage, GradientStage):
                yield self.distil([self.globals, self.students], images, known=(torch.arange(images),))
            else:
                yield stage

    def doubt_places(self) -> None:
        self.strange = self.strangeness.settle()
        self.doubted.copy_(self.strange > self.config.doubted)

    def unexplained(self) -> Iterator[Stage]:
        for name, remainder in self.remainders.items():

            def collect(image: Tensor, name: str = name, remainder: nn.Module = remainder) -> None:
                assert isinstance(remainder, Remainder)
                pyramid = self.pyramid(image)
                remainder.add(pyramid, self.globals[name](pyramid))

            def finish(*_: object, remainder: nn.Module = remainder) -> None:
                assert isinstance(remainder, Remainder)
                remainder.learn()

            yield PassStage(name, collect, finish)

    def losses(self, observed: Features) -> dict[str, Tensor]:
        *pyramid, number = observed
        first = next(iter(self.variants.values()))
        if first.redrawn and self.calls % -(-self.images // self.config.batch_size) == 0:
            generator = torch.Generator().manual_seed(self.seed + self.calls)
            self.domain = torch.randperm(self.images, generator=generator) % self.config.domains
        self.calls += 1
        domain = self.domain[number]
        losses = {}
        asked = any(variant.taught in AGGREGATE for variant in self.variants.values())
        if asked:
            nowhere = torch.zeros_like(self.doubted[number])
            doubts = self.doubts(pyramid, self.doubted[number] if first.cleaner else nowhere)
            normal = self.normal(pyramid, domain)
            losses["domains"] = self.domains_loss(pyramid, domain, doubts)
        for name, variant in self.variants.items():
            rebuilt, targets = self.globals[name](pyramid), pyramid
            if variant.taught == "nothing":
                places = self.doubts(pyramid, self.doubted_by(variant, number))
                targets, rebuilt = without(pyramid, places), without(rebuilt, places)
            elif variant.by == "half":
                places = self.doubts(pyramid, self.doubted_by(variant, number))
                everywhere = [torch.ones_like(level[:, :1], dtype=torch.bool) for level in pyramid]
                instead = corrected(pyramid, normal[name], everywhere)
                between = [(t + n) / 2 for t, n in zip(pyramid, instead, strict=True)]
                targets = corrected(between, normal[name], places)
            elif variant.by == "nobody":
                targets = normal[name]
            elif variant.taught in AGGREGATE:
                if variant.by == "students":
                    places = self.doubts_of_students(pyramid, normal[name])
                else:
                    places = self.doubts(pyramid, self.doubted_by(variant, number))
                targets = corrected(pyramid, normal[name], places)
            losses[name] = self.distillation(targets, rebuilt)
        return losses

    def doubted_by(self, variant: Variant, number: Tensor) -> Tensor:
        """The places that are strange, B x g x g, and all places of suspects."""
        if variant.by in ("truth", "true images"):
            truth = self.truth[number]
            if variant.by == "true images":
                truth = truth.flatten(1).any(1)[:, None, None].expand_as(truth)
            return nn.functional.adaptive_max_pool2d(truth[:, None].float(), self.strange.shape[1])[:, 0] > 0
        doubted = self.strange[number] > variant.limit
        if variant.suspects:
            suspect = torch.from_numpy(judge(self.strange.amax((1, 2)).tolist()).suspect)[number]
            doubted = doubted | suspect[:, None, None]
        return doubted

    @torch.no_grad()
    def doubts_of_students(self, pyramid: Features, normal: Features) -> list[Tensor]:
        """Where the map of teacher against students is highest, a tenth of a batch: B x 1 x h x w for each level."""
        with torch.autocast(pyramid[0].device.type, enabled=False):
            apart = self.head([local_distance(t, n) for t, n in zip(pyramid, normal, strict=True)])[:, None]
        levels = [nn.functional.adaptive_avg_pool2d(apart, (level.shape[2], level.shape[3])) for level in pyramid]
        return [level >= level.quantile(0.9) for level in levels]

    @torch.no_grad()
    def normal(self, pyramid: Features, domain: Tensor) -> dict[str, Features]:
        """The pseudo-normal features of each variant that has some."""
        training = self.students.training
        self.students.eval()
        by_student = [[level.float() for level in student(pyramid)] for student in self.students]
        self.students.train(training)
        rebuilt = [torch.stack(levels) for levels in zip(*by_student, strict=True)]
        k = self.config.domains
        place = torch.arange(len(domain))
        others = (domain + torch.arange(1, k)[:, None]) % k
        found: dict[str, Features] = {}
        for name, variant in self.variants.items():
            if variant.taught in AGGREGATE:
                asked = rebuilt if variant.own else [level[others, place] for level in rebuilt]
                found[name] = [AGGREGATE[variant.taught](level) for level in asked]
        return found

    def maps(self, pyramid: Features) -> dict[str, Tensor]:
        """The anomaly map of every variant."""
        found = {}
        of = dict(self.remainders.items())
        for name, student in self.globals.items():
            remainder = of.get(name)
            assert remainder is None or isinstance(remainder, Remainder)
            found[name] = self.head(distances(pyramid, student(pyramid), remainder))
        return found


def agreement(rebuilt: Tensor) -> Tensor:
    unit = nn.functional.normalize(rebuilt, dim=2)
    with_others = (unit * (unit.sum(0) - unit)).sum(2) / (len(unit) - 1)
    return (torch.softmax(with_others / 0.1, 0)[:, :, None] * rebuilt).sum(0)


AGGREGATE = {
    "mean": lambda rebuilt: rebuilt.mean(0),
    "median": lambda rebuilt: rebuilt.quantile(0.5, 0),
    "agreement": agreement,
}
"""Students x B x C x h x w -> B x C x h x w."""


def reduced(dataset: Dataset, good: int | None, test: int | None, kind: str | None) -> Dataset:
    """At most `good` training images, and `test` normal test images, evenly spaced; one kind of defect or all."""

    def some(samples: Sequence[Sample], at_most: int | None) -> list[Sample]:
        number = min(len(samples), at_most or len(samples))
        return [samples[i] for i in np.linspace(0, len(samples) - 1, number).round().astype(int)]

    normal = [sample for sample in dataset.test if sample.label == "normal"]
    bad = [sample for sample in dataset.test if sample.label == "anomalous" and kind in (None, sample.kind)]
    train = [sample for sample in dataset.train if sample.label != "anomalous"]
    return replace(dataset, samples=(*some(train, good), *some(normal, test), *bad))


def answers(method: Method, image: Tensor) -> dict[str, AnomalyMap]:
    """What every variant of a panel, or another method, says of a batch."""
    if isinstance(method, Panel):
        return {name: AnomalyMap.with_max_score(some) for name, some in method.maps(method.pyramid(image)).items()}
    answer: AnomalyMap = method(image)
    return {method.name: answer}


def defects(sample: Sample, side: int) -> Tensor:
    """Where the defects of an image are, S x S; nowhere in a good one, everywhere in a bad one without mask."""
    if sample.label != "anomalous":
        return torch.zeros(side, side, dtype=torch.bool)
    height, width = read(sample.path, ImageContract()).shape[:2]
    mask = true_mask(sample, (height, width))
    whole = torch.ones(1, 1, height, width) if mask is None else torch.from_numpy(mask)[None, None].float()
    return nn.functional.adaptive_max_pool2d(whole, side)[0, 0] > 0


def run(
    kind: type[Method],
    task: Task,
    config: MethodConfig,
    teacher: FeaturePyramid,
    seed: int,
    limit: int,
    labelled: Mapping[Path, Sample],
) -> list[dict[str, Any]]:
    """Train a panel or another method on a task and judge it; `labelled`: the images as they were before the task."""
    started = time.perf_counter()
    method = build(kind, config, teacher, seed)
    variants = method.variants if isinstance(method, Panel) else {method.name: Variant("teacher")}
    preparation = Preparation(0, 255, config.image_size)
    train = [sample.path for sample in task.train.samples]
    (test,) = task.tests.values()
    if isinstance(method, Panel):
        method.truth = torch.stack([defects(labelled[path], config.image_size) for path in train])
    Trainer("cpu", seed, None, lambda *_: None).fit(method, TrainingImages(train, ImageContract(), preparation))
    print(f"# trained in {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)

    bad = [sample for sample in test.samples if sample.label == "anomalous"]
    kept = {bad[i] for i in np.linspace(0, len(bad) - 1, min(limit, len(bad))).round().astype(int)}
    contaminating = {test.root / name for name in task.drawn}
    kept |= {sample for sample in bad if sample.path in contaminating}
    samples = [sample for sample in test.samples if sample.label == "normal" or sample in kept]
    images = TrainingImages([sample.path for sample in samples], ImageContract(), preparation)
    maps: dict[str, list[np.ndarray[Any, Any]]] = {name: [] for name in variants}
    scores: dict[str, list[float]] = {name: [] for name in variants}
    masks = []
    done = 0
    with torch.inference_mode():
        for batch in images.batches(range(len(images)), 16):
            found = answers(method, batch)
            for i, sample in enumerate(samples[done : done + len(batch)]):
                height, width = read(sample.path, ImageContract()).shape[:2]
                mask = true_mask(sample, (height, width))
                masks.append(np.zeros((height, width), bool) if mask is None else mask)
                for name, some in found.items():
                    maps[name].append(resize(some.map[i], torch.ones(height), torch.ones(width)).numpy())
                    scores[name].append(float(some.score[i]))
            done += len(batch)
        suspicion, slipped_in = [], np.array([path in contaminating for path in train])
        in_sample: dict[str, list[float]] = {name: [] for name in variants}
        done = 0
        training = TrainingImages(train, ImageContract(), preparation)
        for batch in training.batches(range(len(train)), 16):
            for name, some in answers(method, batch).items():
                in_sample[name] += some.score.tolist()
            if isinstance(method, Panel):
                suspicion += method.suspicion(batch, torch.arange(done, done + len(batch))).score.tolist()
            done += len(batch)

    anomalous = np.array([sample.label == "anomalous" for sample in samples])
    known = np.array([sample.path in contaminating for sample in samples])
    rows = []
    for name, variant in variants.items():
        values = np.array(scores[name])
        row: dict[str, Any] = {"variant": name, "n_train": len(train), "n_bad": int(slipped_in.sum())}
        row["I-AUROC"] = auroc(values, anomalous)
        row["AUPRO"] = PixelRanking(maps[name], masks).aupro()
        unseen = [i for i in range(len(samples)) if not known[i]]
        row["AUPRO new"] = PixelRanking([maps[name][i] for i in unseen], [masks[i] for i in unseen]).aupro()
        for group, which in (("trained on", known), ("new", anomalous & ~known)):
            row[f"I-AUROC {group}"] = (
                auroc(values[which | ~anomalous], which[which | ~anomalous]) if which.any() else None
            )
        measure = in_sample[name] if variant.taught == "teacher" else suspicion
        flagged = judge(measure).suspect
        row["listed"], row["listed bad"] = int(flagged.sum()), int((flagged & slipped_in).sum())
        row["suspicion AUROC"] = auroc(measure, slipped_in) if slipped_in.any() else None
        row["suspicion"] = [[round(value, 5), bool(is_bad)] for value, is_bad in zip(measure, slipped_in, strict=True)]
        row["seconds"] = time.perf_counter() - started
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a dataset")
    parser.add_argument("--ratios", default="0,0.2", help="shares of bad images, such as 0,0.2")
    parser.add_argument("--variants", default="rd,cdd", help=f"of {', '.join(VARIANTS)}, and methods")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of every variant")
    parser.add_argument("--good", type=int, help="so many good training images")
    parser.add_argument("--test", type=int, default=100, help="so many good and bad test images, and those trained on")
    parser.add_argument("--kind", help="one kind of defect only")
    parser.add_argument("--no-overlap", action="store_true", help="bad images that train leave the test")
    parser.add_argument("--out", type=Path, help="append the rows as JSON")
    options = parser.parse_args()

    ratios = tuple(float(ratio) for ratio in options.ratios.split(","))
    protocol = Protocol(name="contamination", kind="contaminated", ratios=ratios, overlap=not options.no_overlap)
    dataset = reduced(open_dataset(options.source, "auto"), options.good, options.test, options.kind)
    labelled = {sample.path: sample for sample in dataset.samples}
    settings = parse_settings(options.set)
    names = options.variants.split(",")
    chosen = {name: VARIANTS[name] for name in names if name in VARIANTS}
    alone = [find_method(name) for name in names if name not in VARIANTS]
    if "rd" in chosen and len(chosen) > 1:
        # Trained along with the first that has domains: it does not care how many.
        first = next(variant for name, variant in chosen.items() if name != "rd")
        chosen["rd"] = replace(chosen["rd"], domains=first.domains, redrawn=first.redrawn, cleaner=first.cleaner)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "numpy"))
    # The number of threads decides how sums are rounded, and the result with it.
    threads = torch.get_num_threads()
    print(
        f"{datetime.date.today()}, {threads} threads on {os.cpu_count()} cores {platform.machine()}, {packages}, "
        f"{DEFAULT_TEACHER}\n"
    )
    columns = ["I-AUROC", "I-AUROC trained on", "I-AUROC new", "AUPRO", "AUPRO new", "suspicion AUROC"]
    print("| ratio | seed | variant | bad of all |", " | ".join(columns), "| suspects, of them bad | s |")
    print("|---" * (len(columns) + 6) + "|", flush=True)
    for seed in map(int, options.seeds.split(",")):
        with tempfile.TemporaryDirectory() as draws:
            found = tasks(protocol, {dataset.name: dataset}, seed, Path(draws))
        for task in found:
            if task.impossible:
                raise SystemExit(task.impossible)

            def together(pair: tuple[str, Variant]) -> tuple[int, bool, bool]:
                return pair[1].domains, pair[1].redrawn, pair[1].cleaner

            kinds: list[tuple[type[Method], dict[str, Any]]] = [
                (type("OnePanel", (Panel,), {"variants": dict(some)}), {"domains": domains})
                for (domains, *_), some in groupby(sorted(chosen.items(), key=together), together)
            ]
            kinds += [(method, dict(method.fast)) for method in alone]
            for kind, own in kinds:
                known = {key: value for key, value in settings.items() if key in kind.Config.model_fields}
                config = kind.Config.model_validate(own | known)
                teacher = open_teacher(DEFAULT_TEACHER, strides=config.strides)
                for row in run(kind, task, config, teacher, seed, options.test, labelled):
                    row |= {"data": task.name, "ratio": task.setting, "seed": seed, "config": config.model_dump()}
                    if options.out:
                        with options.out.open("a") as file:
                            file.write(json.dumps(row | {"arguments": sys.argv[1:], "threads": threads}) + "\n")
                    values = ["-" if row[name] is None else f"{100 * row[name]:.1f}" for name in columns]
                    facts = [task.setting, seed, row["variant"], f"{row['n_bad']}/{row['n_train']}", *values]
                    facts += [f"{row['listed']}, {row['listed bad']}", f"{row['seconds']:.0f}"]
                    print("| " + " | ".join(map(str, facts)) + " |", flush=True)


if __name__ == "__main__":
    main()

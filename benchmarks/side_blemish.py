"""Blemish's side of against_anomalib.py, run by it in a process of its own: one job, one line of JSON.

    python benchmarks/side_blemish.py JOB

JOB is JSON: "row" and what against_anomalib.py says. The line holds the figures, where the time went, and the peak
memory of this process.
"""

from __future__ import annotations

import contextlib
import io
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rivals import peak_memory

Job = dict[str, Any]
Figures = dict[str, Any]
WARM_UP = 1
"""Steps of a training that do not count."""


FINISHING = "what was seen is finished"


class Clock:
    """A listener that notes when each part of a training began, and how long each step took.

    Parameters
    ----------
    looks_once : the stage that looks at the images in the first half of its progress and finishes in the second.
    """

    def __init__(self, looks_once: str) -> None:
        self.looks_once = looks_once
        self.parts: dict[str, float] = {}
        self.steps: list[float] = []
        self._part, self._at, self._step = "start", time.perf_counter(), 0.0

    def say(self, text: str) -> None:
        """A sentence begins a part."""
        self._begin(" ".join(text.split()[:3]).rstrip(",.(").lower())

    def warn(self, text: str) -> None:
        """No part of its own."""

    def progress(self, stage: str, done: float, note: str = "") -> None:
        """A stage is a part; what comes with a note is a step."""
        self._begin(FINISHING if stage == self.looks_once and done >= 0.5 else stage)
        if note:
            now = time.perf_counter()
            if self._step:
                self.steps.append(now - self._step)
            self._step = now

    def _begin(self, part: str) -> None:
        if part == self._part:
            return
        now = time.perf_counter()
        self.parts[self._part] = self.parts.get(self._part, 0.0) + now - self._at
        self._part, self._at = part, now

    def end(self) -> dict[str, float]:
        """Seconds by part."""
        self._begin("")
        return self.parts


def fit(job: Job) -> Figures:
    """`blemish train`, from the images to the model file: seconds, and where they went."""

    clock = Clock({"patchcore": "memory bank", "padim": "gaussians"}.get(job["method"], ""))
    started, used = time.perf_counter(), time.process_time()
    detector = train(job, clock)
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    assert detector.manifest is not None
    used = sorted(Path(image.path).name for image in detector.manifest.training.images if image.role == "train")
    if used != job["names"]:
        raise SystemExit("the two sides did not learn from the same images")
    figures: Figures = {"seconds": seconds, "processor": processor, "parts": clock.end()}
    figures["method's fit"] = figures["parts"].get(FINISHING, 0.0)
    if job["method"] == "rd":
        figures["images/s in a step"] = job["batch"] / statistics.median(clock.steps[WARM_UP:])
        figures["images/s"] = job["epochs"] * job["count"] / seconds
    return figures


def prepare(job: Job) -> Figures:
    """Train on a few images; write the model file and, if the row wants it, the int8 twin.

    Where the gate refuses the twin, its graph alone is written beside: what it takes does not depend on the gate.
    """
    from blemish.console import Silent
    from blemish.errors import ExportError
    from blemish.images import read
    from blemish.modelfile import open_model_file
    from blemish.quantisation import find_again, integer_graph, quantise

    train(job, Silent())
    if "int8" not in job["exports"]:
        return {}
    try:
        quantise(job["model"], job["source"], job["int8"], Silent())
    except ExportError as error:
        file = open_model_file(job["model"])
        _, training = find_again(file, Path(job["source"]))
        shown = [read(path, file.manifest.images) for path in training]
        refused_graph(job).write_bytes(integer_graph(file.graph, shown, 0.0)[0])
        return {"refused": str(error)}
    return {}


def refused_graph(job: Job) -> Path:
    """Where the int8 graph lies that the gate did not let become a model file."""
    return Path(job["int8"]).with_suffix(".onnx")


def train(job: Job, listener: Any) -> Any:
    from blemish import assembly

    return assembly.train(
        job["source"],
        job["model"],
        method=job["method"],
        teacher=job["teacher"]["name"],
        preset="paper",
        settings=job["settings"],
        hold_out=job["hold_out"],
        weights=job["weights"],
        device="cpu",
        listener=listener,
    )


def inspect(job: Job) -> Figures:
    """`blemish inspect` over a folder to CSV and heat maps, warm."""
    from blemish.cli.inspect import inspect as command

    out = Path(job["out"])

    def run(folder: str) -> tuple[float, float]:
        started, used = time.perf_counter(), time.process_time()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            command(
                Path(job["model"]),
                [Path(folder)],
                csv_file=out / "all.csv",
                heatmaps=out / Path(folder).name,
                runtime="auto",
            )
        return time.perf_counter() - started, time.process_time() - used

    run(job["few"])
    seconds, processor = run(job["many"])
    pictures = sum(1 for path in (out / Path(job["many"]).name).rglob("*.png"))
    rows = len((out / "all.csv").read_text().splitlines()) - 1
    return {
        "images/s": rows / seconds,
        "images/s of processor time": rows / processor,
        "images": rows,
        "pictures": pictures,
    }


def network(job: Job) -> Figures:
    """One image, the graph only: milliseconds on each runtime, float32 and int8; and the ceilings.

    And in bfloat16 on OpenVINO, which Blemish asks no runtime for, with what that changes in the map.
    """
    import numpy as np

    from blemish.modelfile import open_model_file
    from blemish.runtime.graph import installed_runtimes, open_graph
    from graphs import CEILING_OPERATIONS, ceiling_graph, ceiling_input, in_turn, operations

    threads = job["threads"]
    image = np.random.default_rng(0).integers(0, 256, (1, job["size"], job["size"], 3), np.uint8)
    content = open_model_file(Path(job["model"])).graph
    models = {"float32": content}
    if Path(job["int8"]).exists():
        models["int8"] = open_model_file(Path(job["int8"])).graph
    elif refused_graph(job).exists():
        models["int8, refused"] = refused_graph(job).read_bytes()
    titles = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
    jobs: dict[str, Any] = {}
    for runtime in installed_runtimes():
        for precision, model in models.items():
            for name, graph, given in (
                ("", model, image),
                ("ceiling ", ceiling_graph("int8" if "int8" in precision else "float32"), ceiling_input()),
            ):
                opened = open_graph(graph, threads, runtime)
                jobs[f"{name}{titles[runtime]} {precision}"] = lambda opened=opened, given=given: opened.run(given)
    changes: Figures = {}
    if "openvino" in installed_runtimes():
        in_bfloat = {"": (content, image), "ceiling ": (ceiling_graph(), ceiling_input())}
        for name, (graph, given) in in_bfloat.items():
            request = bfloat_request(graph, threads)
            jobs[f"{name}OpenVINO bfloat16, not offered"] = lambda request=request, given=given: request.infer(
                {"image": given}
            )
        exact, _ = open_graph(content, threads).run(image)
        rounded = jobs["OpenVINO bfloat16, not offered"]()["anomaly_map"]
        changes["bfloat16's error"] = float(np.abs(rounded - exact).max() / np.abs(exact).max())
    times = in_turn(jobs, job["runs"])
    # With one thread both are the same on a quiet machine; on a busy one, only processor time is the graph's.
    return {name: processor if threads == 1 else clock for name, (clock, processor) in times.items()} | {
        "operations": operations(content, image.shape),
        "ceiling operations": CEILING_OPERATIONS,
        **changes,
    }


def bfloat_request(graph: bytes, threads: int) -> Any:
    """A graph on OpenVINO, computed in bfloat16."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "bf16", "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": threads}
    return core.compile_model(core.read_model(graph), "CPU", options).create_infer_request()


ROWS = {
    "prepare": prepare,
    "train-rd": fit,
    "fit-patchcore": fit,
    "fit-padim": fit,
    "inspect": inspect,
    "network": network,
}


def main() -> None:
    job = json.loads(sys.argv[1])
    if job["row"] in ("train-rd", "fit-patchcore", "fit-padim"):
        # What a program imports before it can train is the row cold-start's matter, on both sides.
        import blemish.assembly  # noqa: F401
    figures = ROWS[job["row"]](job)
    print(json.dumps({"figures": figures, "peak": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()

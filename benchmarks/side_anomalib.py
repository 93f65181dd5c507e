"""anomalib's side of against_anomalib.py, run by it in anomalib's environment: one job, one line of JSON.

    python benchmarks/side_anomalib.py JOB

JOB is JSON: "row" and what against_anomalib.py says. The line holds the figures and the peak memory of this process.
Nothing is downloaded: the teacher is built without weights, and those of a file are loaded.
"""

from __future__ import annotations

import csv
import json
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from rivals import peak_memory

Job = dict[str, Any]
Figures = dict[str, float]
WARM_UP = 1
"""Steps of a training that do not count."""


def fit(job: Job) -> Figures:
    """Fit or train, as `Engine.fit` does it: seconds in all, and of that in validation and in `fit` of the method."""
    import torch
    from anomalib.engine import Engine
    from lightning.pytorch import Callback

    class Clock(Callback):
        def __init__(self) -> None:
            self.steps: list[float] = []
            self.validation = 0.0
            self.started = 0.0

        def on_train_batch_start(self, *_: object) -> None:
            self.started = time.perf_counter()

        def on_train_batch_end(
            self, _trainer: object, _module: object, _outputs: object, batch: Any, *_: object
        ) -> None:
            if len(batch.image) == job["batch"]:
                self.steps.append(time.perf_counter() - self.started)

        def on_validation_epoch_start(self, *_: object) -> None:
            self.started = time.perf_counter()

        def on_validation_end(self, *_: object) -> None:
            self.validation += time.perf_counter() - self.started

    clock = Clock()
    module = build(job)
    own_seconds = [0.0]
    if job["method"] != "rd":
        own = module.fit

        def timed() -> None:
            started = time.perf_counter()
            own()
            own_seconds[0] += time.perf_counter() - started

        module.fit = timed
    torch.set_num_threads(job["threads"])
    engine = Engine(max_epochs=job["epochs"], callbacks=[clock], **engine_options(job))
    started, used = time.perf_counter(), time.process_time()
    engine.fit(model=module, datamodule=data(job))
    seconds = time.perf_counter() - started
    figures = {
        "seconds": seconds,
        "processor": time.process_time() - used,
        "seconds without validation": seconds - clock.validation,
        "method's fit": own_seconds[0],
    }
    if job["method"] == "rd":
        images = job["epochs"] * job["count"]
        figures["images/s in a step"] = job["batch"] / statistics.median(clock.steps[WARM_UP:])
        figures["images/s"] = images / seconds
        figures["images/s without validation"] = images / (seconds - clock.validation)
    return figures


def prepare(job: Job) -> Figures:
    """Fit on a few images; write the checkpoint, and of the exports what the row wants."""
    from anomalib.engine import Engine

    module, images, root = build(job), data(job), Path(job["out"])
    engine = Engine(max_epochs=1, **engine_options(job))
    engine.fit(model=module, datamodule=images)
    engine.trainer.save_checkpoint(root / "model.ckpt")
    side = (job["size"], job["size"])
    if "onnx" in job["exports"]:
        engine.export(module, "onnx", root, input_size=side)
    if "openvino" in job["exports"]:
        engine.export(module, "openvino", root, input_size=side)
    if "int8" in job["exports"]:
        engine.export(module, "openvino", root, "int8", input_size=side, compression_type="int8_ptq", datamodule=images)
    return {}


def inspect(job: Job) -> Figures:
    """`Engine.predict` over a folder, warm: pictures by its visualiser, and a row an image."""
    from anomalib.data import PredictDataset
    from anomalib.engine import Engine

    root = Path(job["out"])
    engine = Engine(**engine_options(job))
    module = build(job)

    def predict(folder: str) -> int:
        images = PredictDataset(folder, image_size=(job["size"], job["size"]))
        batches = engine.predict(model=module, dataset=images, ckpt_path=root / "model.ckpt")
        with (root / "all.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            for batch in batches:
                for path, score, label in zip(batch.image_path, batch.pred_score, batch.pred_label, strict=True):
                    rows.writerow([path, float(score), bool(label)])
        return sum(len(batch.image_path) for batch in batches)

    def pictures() -> int:
        return sum(path.suffix in (".png", ".jpg") for path in root.rglob("*"))

    predict(job["few"])
    before = pictures()
    started, used = time.perf_counter(), time.process_time()
    count = predict(job["fewer"])
    seconds, processor = time.perf_counter() - started, time.process_time() - used
    return {
        "images/s": count / seconds,
        "images/s of processor time": count / processor,
        "images": count,
        "pictures": pictures() - before,
    }


def network(job: Job) -> Figures:
    """One image, the network only: milliseconds eager, and exported to ONNX Runtime and OpenVINO; and the ceilings."""
    import numpy as np
    import onnx
    import onnxruntime
    import openvino
    import torch

    from graphs import CEILING_OPERATIONS, ceiling_graph, ceiling_input, in_turn, operations

    root, threads = Path(job["out"]) / "weights", job["threads"]
    torch.set_num_threads(threads)
    image = np.random.default_rng(0).uniform(size=(1, 3, job["size"], job["size"])).astype(np.float32)
    network = build(job).model.eval()
    tensor = torch.from_numpy(image)

    def eager() -> None:
        with torch.inference_mode():
            network(tensor)

    jobs: dict[str, Any] = {"eager float32": eager}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Its weights lie in a file beside it.
    content = onnx.load(root / "onnx" / "model.onnx").SerializeToString()
    for name, graph, given in (
        ("ONNX Runtime float32", content, image),
        ("ceiling ONNX Runtime float32", ceiling_graph(), ceiling_input()),
    ):
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        key = session.get_inputs()[0].name
        jobs[name] = lambda session=session, key=key, given=given: session.run(None, {key: given})
    core = openvino.Core()
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16"), ("int8", "f32")):
        file = root / "openvino" / ("int8.xml" if precision == "int8" else "model.xml")
        for name, model, given in (
            ("", core.read_model(file), image),
            ("ceiling ", core.read_model(ceiling_graph("int8" if precision == "int8" else "float32")), ceiling_input()),
        ):
            asked = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
            request = core.compile_model(model, "CPU", asked).create_infer_request()
            jobs[f"{name}OpenVINO {precision}"] = lambda request=request, given=given: request.infer([given])
    times = in_turn(jobs, job["runs"])
    # With one thread both are the same on a quiet machine; on a busy one, only processor time is the graph's.
    return {name: processor if threads == 1 else clock for name, (clock, processor) in times.items()} | {
        "operations": operations(content, image.shape),
        "ceiling operations": CEILING_OPERATIONS,
    }


def cold_start(job: Job) -> Figures:
    """From nothing to the first verdict, with the inferencer that its documentation recommends for deployment."""
    from anomalib.deploy import OpenVINOInferencer

    prediction = OpenVINOInferencer(Path(job["out"]) / "weights" / "openvino" / "model.xml", device="CPU").predict(
        job["image"]
    )
    return {"score": float(prediction.pred_score.reshape(-1)[0])}


def build(job: Job) -> Any:
    """The model of a job, its teacher's weights loaded."""
    from anomalib.models import Padim, Patchcore, ReverseDistillation
    from anomalib.pre_processing import PreProcessor
    from torchvision.transforms.v2 import Compose, Normalize, Resize

    teacher = job["teacher"]
    side = (job["size"], job["size"])
    steps = Compose([Resize(side, antialias=True), Normalize(teacher["mean"], teacher["std"])])
    given = {"backbone": teacher["backbone"], "pre_trained": False, "pre_processor": PreProcessor(transform=steps)}
    layers = teacher["layers"]
    if job["method"] == "padim":
        module = Padim(layers=layers, n_features=100, **given)
        extractor = module.model.feature_extractor
    elif job["method"] == "patchcore":
        module = Patchcore(layers=layers[1:], coreset_sampling_ratio=0.01, num_neighbors=1, **given)
        extractor = module.model.feature_extractor
    else:
        module = ReverseDistillation(layers=layers, **given)
        extractor = module.model.encoder
    load_teacher(extractor.feature_extractor, Path(teacher["file"]))
    return module


def load_teacher(network: Any, file: Path) -> None:
    """Load what a truncated network needs of a file that has timm's names."""
    from safetensors.torch import load_file

    tensors = {name.replace(".", "_"): tensor for name, tensor in load_file(file).items()}
    network.load_state_dict({name: tensors[name.replace(".", "_")] for name in network.state_dict()})


def data(job: Job) -> Any:
    """The images of a job, as its `Folder` takes them: half of the test images validate, its default."""
    from anomalib.data import Folder

    return Folder(
        name="images",
        root=job["images"],
        normal_dir="train",
        normal_test_dir="good",
        abnormal_dir="bad",
        mask_dir="masks",
        train_batch_size=job["batch"],
        eval_batch_size=job["batch"],
        num_workers=0,
    )


def engine_options(job: Job) -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "default_root_dir": job["out"],
    }


ROWS = {
    "prepare": prepare,
    "train-rd": fit,
    "fit-patchcore": fit,
    "fit-padim": fit,
    "inspect": inspect,
    "network": network,
    "cold-start": cold_start,
}


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    job = json.loads(sys.argv[1])
    if job["row"] != "cold-start":
        import torch

        torch.manual_seed(0)
    figures = ROWS[job["row"]](job)
    print(json.dumps({"figures": figures, "peak": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()

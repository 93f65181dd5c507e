"""The exported graph on a runtime: ONNX Runtime, which is always there, or OpenVINO, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from threading import Lock, local
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from blemish.cores import usable_cores
from blemish.errors import ModelFileError, UsageError

Maps = NDArray[np.float32]
RuntimeName = Literal["onnxruntime", "openvino"]
RuntimeChoice = Literal["onnxruntime", "openvino", "auto"]


class Graph(Protocol):
    """An exported graph, ready to run, in several threads at once too. `runtime` says on what."""

    runtime: RuntimeName

    def run(self, images: NDArray[np.generic]) -> tuple[Maps, Maps]:
        """B x H x W x 3 in the contract's type -> anomaly maps B x H x W and scores B."""


class OnnxRuntimeGraph:
    """The graph on ONNX Runtime.

    Parameters
    ----------
    content : the bytes of model.onnx.
    threads : of the runtime in all; None takes the cores that this process may use.
    at_once : how many threads will run the graph at the same time; its own threads are shared out among them.

    Raises
    ------
    ModelFileError
        The runtime refuses the graph.
    """

    runtime: RuntimeName = "onnxruntime"

    def __init__(self, content: bytes, threads: int | None = None, at_once: int = 1) -> None:
        # Importing it takes longer than everything else a command line does.
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Left to itself, it takes all cores of the machine, whatever the process is bound to.
        options.intra_op_num_threads = max(1, (threads or usable_cores()) // at_once)
        # A thread that spins while it waits for work takes the core from whoever has some.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelFileError(f"ONNX Runtime cannot run its graph: {error}") from error

    def run(self, images: NDArray[np.generic]) -> tuple[Maps, Maps]:
        """B x H x W x 3 in the contract's type -> anomaly maps B x H x W and scores B."""
        anomaly_map, score = self._session.run(["anomaly_map", "score"], {"image": images})
        return anomaly_map, score


class OpenVinoGraph:
    """The graph on OpenVINO's CPU device. Parameters and errors as for ONNX Runtime.

    All of it is computed in float32: left to itself, OpenVINO takes bfloat16 where the processor has it, and the
    difference of two nearly equal features, which is what an anomaly map is, does not survive that.
    """

    runtime: RuntimeName = "openvino"
    _one_by_one = Lock()

    def __init__(self, content: bytes, threads: int | None = None, at_once: int = 1) -> None:
        import openvino

        # The first array of a process makes it look up NumPy's functions. Two threads that do this at the same time can
        # wait for each other for ever: one for the interpreter, which the other holds, and that one for the look-up.
        with self._one_by_one:
            openvino.Tensor(np.zeros(1, np.float32)).data  # noqa: B018
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": at_once,
            "INFERENCE_NUM_THREADS": max(at_once, threads or usable_cores()),
            # What it prepares for one size of image. Left to itself it keeps 5,000 of these: gigabytes.
            "CPU_RUNTIME_CACHE_CAPACITY": 64,
        }
        try:
            core = openvino.Core()
            self._compiled = core.compile_model(core.read_model(content), "CPU", options)
            # A request is for one thread at a time.
            self._of_thread = local()
        except Exception as error:
            raise ModelFileError(f"OpenVINO cannot run its graph: {error}") from error

    def run(self, images: NDArray[np.generic]) -> tuple[Maps, Maps]:
        """B x H x W x 3 in the contract's type -> anomaly maps B x H x W and scores B."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        results = self._of_thread.request.infer({"image": images})
        # The request writes its next answer into the same memory.
        return results["anomaly_map"].copy(), results["score"].copy()


RUNTIMES: dict[RuntimeName, Callable[[bytes, int | None, int], Graph]] = {
    "onnxruntime": OnnxRuntimeGraph,
    "openvino": OpenVinoGraph,
}


def installed_runtimes() -> list[RuntimeName]:
    """The runtimes that this environment has."""
    return [name for name in RUNTIMES if find_spec(name)]


def open_graph(
    content: bytes, threads: int | None = None, runtime: RuntimeName = "onnxruntime", at_once: int = 1
) -> Graph:
    """A graph on the runtime named; `threads` and `at_once` as for `OnnxRuntimeGraph`.

    Raises
    ------
    UsageError
        There is no such runtime, or it is not installed.
    ModelFileError
        It refuses the graph.
    """
    check_runtime(runtime)
    return RUNTIMES[runtime](content, threads, at_once)


def check_runtime(name: str) -> RuntimeChoice:
    """The runtime of this name, or "auto".

    Raises
    ------
    UsageError
        There is no such runtime, or it is not installed.
    """
    choices: tuple[RuntimeChoice, ...] = get_args(RuntimeChoice)
    for choice in choices:
        if choice == name:
            if choice != "auto" and not find_spec(choice):
                raise UsageError(
                    f"{name} is not installed here",
                    where="--runtime",
                    todo="Install it: pip install 'blemish[openvino]'",
                )
            return choice
    raise UsageError(f"there is no runtime '{name}'", where="--runtime", todo=f"Choose {', '.join(choices)}")

"""Graphs measured beside one another: what a graph computes, the ceiling of its runtime, and runs in turn."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

CHANNELS, SIDE, CONVOLUTIONS = 64, 64, 4
CEILING_OPERATIONS = CONVOLUTIONS * 2.0 * (CHANNELS * SIDE * 3) ** 2
"""Multiplications and additions of the graph that `ceiling_graph` gives, for one input."""


def operations(content: bytes, shape: tuple[int, ...]) -> float:
    """Multiplications and additions of a graph's convolutions and matrix products for one input of this shape."""
    import onnxruntime

    model = onnx.load_from_string(content)
    counted = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")]
    constants = {each.name: tuple(each.dims) for each in model.graph.initializer}
    constants |= {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t).shape
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }
    # Sides are free in the graph; only running it says what comes out where.
    wanted = [n for node in counted for n in (node.input[0], node.output[0], node.input[1]) if n not in constants]
    given = model.graph.input[0].name
    already = {each.name for each in model.graph.output} | {given}
    model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in dict.fromkeys(wanted) if n not in already)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    kind = session.get_inputs()[0].type[len("tensor(") : -1]
    ran = session.run(names, {given: np.zeros(shape, "float32" if kind == "float" else kind)})
    shapes = {given: shape} | constants | {n: a.shape for n, a in zip(names, ran, strict=True)}
    total = 0.0
    for node in counted:
        weight, out = shapes[node.input[1]], shapes[node.output[0]]
        if node.op_type == "Conv":
            total += 2 * math.prod(out) * math.prod(weight[1:])
        elif node.op_type == "ConvTranspose":
            total += 2 * math.prod(shapes[node.input[0]]) * math.prod(weight[1:])
        else:
            total += 2 * math.prod(out) * shapes[node.input[0]][-1]
    return total


def ceiling_graph(precision: Literal["float32", "int8"] = "float32") -> bytes:
    """A graph as the others are, that is one 3 x 3 convolution, four times, and almost nothing else."""
    # What goes in and what comes out are of the same size, so that eight bits hold both.
    weight = np.random.default_rng(0).normal(scale=1 / (3 * CHANNELS**0.5), size=(CHANNELS, CHANNELS, 3, 3))
    weight = weight.astype(np.float32)
    constants = [numpy_helper.from_array(weight, "w")]
    nodes: list[NodeProto] = []
    weights = "w"
    if precision == "int8":
        scale = np.float32(np.abs(weight).max() / 127)
        constants = [
            numpy_helper.from_array(np.round(weight / scale).astype(np.int8), "w"),
            numpy_helper.from_array(np.array(scale), "weight scale"),
            numpy_helper.from_array(np.array(0, np.int8), "zero"),
            numpy_helper.from_array(np.array(1 / 16, np.float32), "scale"),
            numpy_helper.from_array(np.array(128, np.uint8), "middle"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["w", "weight scale", "zero"], ["weights"]))
        weights = "weights"
    at = "image"
    for number in range(CONVOLUTIONS):
        if precision == "int8":
            nodes += [
                helper.make_node("QuantizeLinear", [at, "scale", "middle"], [f"q{number}"]),
                helper.make_node("DequantizeLinear", [f"q{number}", "scale", "middle"], [f"d{number}"]),
            ]
            at = f"d{number}"
        nodes.append(helper.make_node("Conv", [at, weights], [f"c{number}"], pads=[1, 1, 1, 1]))
        at = f"c{number}"
    nodes += [
        helper.make_node("ReduceMean", [at], ["anomaly_map"], axes=[1], keepdims=0),
        helper.make_node("ReduceMax", ["anomaly_map"], ["score"], axes=[1, 2], keepdims=0),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", CHANNELS, SIDE, SIDE])
    outputs = [
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["b", SIDE, SIDE]),
        helper.make_tensor_value_info("score", TensorProto.FLOAT, ["b"]),
    ]
    graph = helper.make_graph(nodes, "ceiling", [image], outputs, constants)
    made: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()
    return made


def ceiling_input() -> NDArray[np.float32]:
    """What `ceiling_graph` takes."""
    return np.random.default_rng(0).normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)


def in_turn(jobs: Mapping[str, Callable[[], object]], runs: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each job, by the clock and of the processor; the first two runs of each do not count."""
    clock: dict[str, list[float]] = {name: [] for name in jobs}
    processor: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(runs + 2):
        for name, job in jobs.items():
            started, used = time.perf_counter(), time.process_time()
            job()
            if turn >= 2:
                clock[name].append(1e3 * (time.perf_counter() - started))
                processor[name].append(1e3 * (time.process_time() - used))
    return {name: (statistics.median(clock[name]), statistics.median(processor[name])) for name in jobs}

"""Nearest neighbours in an exported graph: looked for in eight-bit integers, measured in float32.

The search of a large bank is one matrix product, and nearly all of the graph's time. Integers are multiplied several
times as fast, but their distances are wrong by about a hundredth, so they only choose whom to measure:

1. Queries and bank, less the bank's mean, become integers with a scale per vector; a product gives all distances,
   nearly.
2. The bank lies in blocks of 16. The 16 blocks with the smallest minimum remain, of these the 16 nearest vectors.
3. The distances to these 16 are computed in float32, and the smallest is the answer.

The answer is exact where the nearest vector is among the 16; `benchmarks/neighbours.py` counts how often it is. It is
missed where more than 16 are nearly as near, which is where the distance is small beside the vectors' own size; hardly
ever for the patch that an image's score rests on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

BLOCK = 16
CANDIDATES = 16
LEVELS = 63
"""Bank vectors take seven of the eight bits: where a processor has no instruction for eight-bit products, two of them
are added up in sixteen bits, and would overflow."""
DIMENSION, NUMBERS = 256, 3 * 10**6
"""The shortest vectors, and the fewest numbers in a bank, where this saves time on both runtimes."""


def search_in_integers(model: onnx.ModelProto) -> bool:
    """Let a graph search its large banks in integers; False if it has none.

    Parameters
    ----------
    model : changed in place, wherever the minimum over the bank of |m|^2 - 2 q.m is taken, as
        `nn.neighbours.nearest_squared_distance` does.
    """
    constants = {each.name: each for each in model.graph.initializer}
    values = {name: numpy_helper.to_array(each) for name, each in constants.items()}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    found = False
    for product in [node for node in model.graph.node if node.op_type == "Gemm"]:
        users = [node for node in model.graph.node if product.output[0] in node.input]
        if len(users) != 1 or not _is_search(product, users[0], values):
            continue
        bank = constants[product.input[1]]
        count, dimension = bank.dims
        if dimension < DIMENSION or count * dimension < NUMBERS or count < CANDIDATES * BLOCK:
            continue
        nodes, more = _integer_search(product, users[0].output[0], numpy_helper.to_array(bank))
        at = list(model.graph.node).index(product)
        kept = [node for node in model.graph.node if node not in (product, users[0])]
        del model.graph.node[:]
        model.graph.node.extend([*kept[:at], *nodes, *kept[at:]])
        model.graph.initializer.extend(more)
        found = True
    return found


def _is_search(product: onnx.NodeProto, least: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> bool:
    """Whether a Gemm is |m|^2 - 2 q.m for a constant bank, and all that is done with it is to take the minimum."""
    of_product, of_least = (
        {each.name: helper.get_attribute_value(each) for each in node.attribute} for node in (product, least)
    )
    axes = values.get(least.input[1]) if least.op_type == "ReduceMin" and len(least.input) > 1 else None
    return (
        len(product.input) == 3
        and all(name in values for name in product.input[1:])
        and values[product.input[2]].shape == values[product.input[1]].shape[:1]
        and (of_product.get("alpha"), of_product.get("beta", 1.0)) == (-2.0, 1.0)
        and (of_product.get("transA", 0), of_product.get("transB", 0)) == (0, 1)
        and axes is not None
        and axes.tolist() == [1]
        and of_least.get("keepdims", 1) == 0
    )


def _integer_search(
    product: onnx.NodeProto, answer: str, bank: NDArray[np.float32]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes and constants that give `answer`, Q: the least of what `product` computes, Q x M, over the bank, M x D."""
    queries, of_bank, of_norms = product.input
    prefix = f"{answer}/search/"
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), prefix + name))
        return prefix + name

    def node(kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [prefix + name], **attributes))
        return prefix + name

    count = len(bank)
    mean = bank.mean(0, dtype=np.float64).astype(np.float32)
    centred = bank - mean
    scale = np.maximum(np.abs(centred).max(1) / LEVELS, np.float32(1e-30))
    integers = np.round(centred / scale[:, None]).astype(np.int8)
    norms = np.square(centred).sum(1)
    # What fills the last block is infinitely far away.
    missing = -count % BLOCK
    integers = np.pad(integers, ((0, missing), (0, 0)))
    scale = np.pad(scale, (0, missing), constant_values=1)
    norms = np.pad(norms, (0, missing), constant_values=np.inf)

    first, second = constant("first", [1]), constant("second", [2])
    candidates = constant("candidates", [CANDIDATES])
    # Queries in [-1, 1], so that their integers have a scale that is known beforehand.
    around = node("Sub", [queries, constant("mean", mean)], "around")
    largest = node("ReduceMax", [node("Abs", [around], "size"), first], "largest", keepdims=1)
    length = node("Max", [largest, constant("tiny", np.float32(1e-30))], "length")
    unit = node("Div", [around, length], "unit")
    step, middle = constant("step", np.float32(1 / 127)), constant("middle", np.uint8(128))
    near = node("DequantizeLinear", [node("QuantizeLinear", [unit, step, middle], "bytes"), step, middle], "near")
    kept = node(
        "DequantizeLinear",
        [
            constant("bank", np.ascontiguousarray(integers.T)),
            constant("scale", 2 * scale),
            constant("zero", np.zeros(len(scale), np.int8)),
        ],
        "kept",
        axis=1,
    )
    twice = node("Mul", [node("MatMul", [near, kept], "products"), length], "twice")
    nearly = node("Sub", [constant("norms", norms), twice], "nearly")

    blocks = node("Reshape", [nearly, constant("in blocks", [0, len(norms) // BLOCK, BLOCK])], "blocks")
    minima = node("ReduceMin", [blocks, second], "minima", keepdims=0)
    chosen = _least(nodes, minima, candidates, prefix + "block")
    begins = node("Mul", [chosen, constant("block size", BLOCK)], "begins")
    members = node(
        "Add",
        [node("Unsqueeze", [begins, second], "begin"), constant("offsets", np.arange(BLOCK)[None, None])],
        "places",
    )
    places = node("Reshape", [members, constant("flat", [0, CANDIDATES * BLOCK])], "members")
    best = _least(nodes, node("GatherElements", [nearly, places], "values", axis=1), candidates, prefix + "best")
    nearest = node("GatherElements", [places, best], "nearest", axis=1)
    # Where a query is not a number, anything can be the nearest, also what fills the last block.
    nearest = node("Min", [nearest, constant("last", count - 1)], "in the bank")

    vectors = node("Gather", [of_bank, nearest], "vectors")
    exact = node(
        "ReduceSum",
        [node("Mul", [node("Unsqueeze", [queries, first], "query"), vectors], "terms"), second],
        "exact",
        keepdims=0,
    )
    shares = node("Mul", [exact, constant("minus two", np.float32(-2))], "shares")
    distances = node("Add", [node("Gather", [of_norms, nearest], "squares"), shares], "distances")
    nodes.append(helper.make_node("ReduceMin", [distances, first], [answer], keepdims=0))
    return nodes, constants


def _least(nodes: list[onnx.NodeProto], values: str, count: str, name: str) -> str:
    """Append what gives the places of the least `count` of each row, in no order."""
    nodes.append(helper.make_node("TopK", [values, count], [f"{name} values", name], axis=1, largest=0, sorted=0))
    return name

"""What is changed in a graph after it was traced, without changing what it says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from blemish import export
from blemish.export import export_graph, fold_padding
from blemish.images import ImageContract
from blemish.methods import find_method
from blemish.nn.preparation import Preparation
from tiny import SIZE, config_for, part, teacher
from tiny import one_thread as one_thread  # applies to this module

PREPARATION = Preparation(0, 255, SIZE)


def answers(model: onnx.ModelProto, image: NDArray[Any]) -> list[NDArray[Any]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[NDArray[Any]] = session.run(None, {"image": image})
    return found


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def test_the_teacher_pads_in_its_convolutions_and_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    stpm = find_method("stpm")
    config = config_for(stpm)
    method = stpm(config, teacher(config.strides)).eval()
    folded = onnx.load_from_string(export_graph(method, PREPARATION, ImageContract()))
    monkeypatch.setattr(export, "fold_padding", lambda model: None)
    traced = onnx.load_from_string(export_graph(method, PREPARATION, ImageContract()))

    assert "Pad" in kinds(traced)
    assert "Pad" not in kinds(folded)
    assert len(folded.graph.node) < len(traced.graph.node)
    for shape in [(72, 80), (51, 40), (130, 64)]:
        image = np.stack([part(1, shape), part(2, shape, defect=True)])
        for a, b in zip(answers(folded, image), answers(traced, image), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * np.abs(b).max())


AMOUNTS = [0, 0, 1, 0, 0, 0, 2, 3]


def padded(amounts: list[int] | str = "amounts", value: float = 0, mode: str = "constant", **more: Any) -> Any:
    """A graph of a Pad and a convolution that pads one column more by itself; `more` are its other attributes."""
    weight = np.random.default_rng(0).normal(size=(2, 3, 3, 3)).astype(np.float32)
    constants = {"weight": weight, "value": np.float32(value), "amounts": np.array(AMOUNTS)}
    if not isinstance(amounts, str):
        constants["amounts"] = np.array(amounts)
    more = {"pads": [0, 1, 0, 1]} | more
    nodes = [
        helper.make_node("Transpose", ["image"], ["x"], perm=[0, 3, 1, 2]),
        helper.make_node("Pad", ["x", "amounts", "value"], ["padded"], mode=mode),
        helper.make_node("Conv", ["padded", "weight"], ["y"], strides=[2, 2], **more),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["b", "h", "w", 3])
    out = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        nodes, "made", [image], out, [numpy_helper.from_array(a, n) for n, a in constants.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def with_a_second_user(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node.append(helper.make_node("Relu", ["padded"], ["z"]))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    return model


def as_an_output(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output.append(helper.make_tensor_value_info("padded", TensorProto.FLOAT, None))
    return model


def by_the_size_of_the_image(model: onnx.ModelProto) -> onnx.ModelProto:
    """The padding at the right is the image's width."""
    nodes = [
        helper.make_node("Shape", ["image"], ["width"], start=2, end=3),
        helper.make_node("Concat", ["seven", "width"], ["by size"], axis=0),
    ]
    model.graph.initializer.append(numpy_helper.from_array(np.array(AMOUNTS[:7]), "seven"))
    made = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(made)
    model.graph.node[3].input[1] = "by size"
    return model


def with_a_value_by_the_size_of_the_image(model: onnx.ModelProto) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Size", ["image"], ["size"]),
        helper.make_node("Cast", ["size"], ["by size"], to=TensorProto.FLOAT),
    ]
    made = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(made)
    model.graph.node[3].input[2] = "by size"
    return model


def without_a_value(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.node[1].input[2]
    return model


@pytest.mark.parametrize(
    ("model", "folds"),
    [
        (padded(), True),
        (without_a_value(padded()), True),
        (with_a_value_by_the_size_of_the_image(padded()), False),
        (padded(dilations=[2, 2]), True),
        (padded(auto_pad="NOTSET"), True),
        (padded(value=0.5), False),
        (padded(mode="edge"), False),
        (padded([0, 0, -1, 0, 0, 0, 0, 0]), False),
        (padded([1, 0, 0, 0, 0, 0, 0, 0]), False),
        (with_a_second_user(padded()), False),
        (as_an_output(padded()), False),
        (by_the_size_of_the_image(padded()), False),
    ],
)
def test_only_the_same_zeros_for_every_image_are_left_to_the_convolution(model: onnx.ModelProto, folds: bool) -> None:
    image = np.random.default_rng(1).normal(size=(2, 20, 31, 3)).astype(np.float32)
    before = answers(model, image)
    fold_padding(model)

    assert ("Pad" not in kinds(model)) == folds
    if folds:
        assert [each.name for each in model.graph.initializer] == ["weight"]
    for a, b in zip(answers(model, image), before, strict=True):
        assert np.array_equal(a, b)

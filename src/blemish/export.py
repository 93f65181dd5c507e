"""From a trained method to the graph that every prediction runs, and the proof that both say the same."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from blemish import __version__
from blemish.errors import ExportError, ModelFileError
from blemish.images import ImageContract
from blemish.methods import Method
from blemish.modelfile import ModelFile, Parity
from blemish.nn.preparation import Preparation
from blemish.nn.resampling import length, resize
from blemish.runtime.graph import Graph, OnnxRuntimeGraph
from blemish.search import search_in_integers

OPSET = 18
PARITY_LIMIT = 1e-3
PARITY_BATCHES = (1, 3)
LARGEST_GRAPH = 2**31 - 2**20
"""Protocol buffers end at 2 GiB."""
LARGE_TENSOR = 2**20
"""Bytes from which a tensor is not stored twice in a model file."""
GRAPH_PREFIX = "method."
IN_THE_GRAPH = "in the graph"


class InspectionNetwork(nn.Module):
    """Decoded image in, anomaly map at the image's size and score out."""

    def __init__(self, method: Method, preparation: Preparation) -> None:
        super().__init__()
        self.preparation = preparation
        self.method = method

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """B x H x W x 3 in the contract's type -> anomaly map B x H x W, score B."""
        anomaly_map, score = self.method(self.preparation(image))
        return resize(anomaly_map, length(image, 1), length(image, 2)), score


def export_graph(
    method: Method, preparation: Preparation, contract: ImageContract, *, integer_search: bool = True
) -> bytes:
    """The ONNX graph of a trained method: batch, height and width are free.

    Parameters
    ----------
    integer_search : whether large banks are searched in integers; see `search`.

    Raises
    ------
    ExportError
        If the method is too large for a graph.
    """
    size = sum(t.numel() * t.element_size() for t in method.state_dict().values())
    if size > LARGEST_GRAPH:
        raise ExportError(
            f"the trained method holds {size / 2**30:.1f} GiB and a graph at most 2",
            where=method.name,
            todo="Make it smaller: fewer features, a smaller image_size or a smaller bank",
        )
    network = InspectionNetwork(method, preparation).eval()
    # The tracing exporter does not know uint16; with int32 it writes the same operators.
    traced_type = torch.int32 if contract.depth == "uint16" else getattr(torch, contract.depth)
    example = torch.zeros((2, 97, 101, 3), dtype=traced_type)
    free = {0: "batch", 1: "height", 2: "width"}
    traced = io.BytesIO()
    with quiet():
        # The tracing exporter takes 2 s where the one on torch.export takes 18 s for the same operators; whether the
        # graph is right is for check_parity to say, whichever wrote it.
        torch.onnx.export(
            network,
            (example,),
            traced,  # type: ignore[arg-type]  # torch's signature forgets that this exporter takes a buffer
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["anomaly_map", "score"],
            dynamic_axes={"image": free, "anomaly_map": free, "score": {0: "batch"}},
        )
    model = onnx.load_from_string(traced.getvalue())
    # Large constants are in both.
    del traced
    model.graph.input[0].type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(contract.depth))
    fold_padding(model)
    if integer_search:
        search_in_integers(model)
    _forget_origin(model)
    _describe(model, method, contract)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def proven_graph(
    method: Method, preparation: Preparation, contract: ImageContract, images: Sequence[NDArray[Any]]
) -> tuple[bytes, Graph, Parity]:
    """The graph of a trained method, itself as bytes and opened, and how closely it agrees with torch.

    Where it searches in integers and does not agree, it searches in float32 instead.

    Raises
    ------
    ExportError
        The method is too large for a graph, or no graph agrees with torch on `images`; see `check_parity`.
    """
    content = export_graph(method, preparation, contract)
    graph: Graph = OnnxRuntimeGraph(content)
    try:
        return content, graph, check_parity(graph, method, preparation, images)
    except ExportError:
        exact = export_graph(method, preparation, contract, integer_search=False)
        if exact == content:
            raise
    graph = OnnxRuntimeGraph(exact)
    return exact, graph, check_parity(graph, method, preparation, images)


def fold_padding(model: onnx.ModelProto) -> None:
    """Let convolutions pad by themselves where a Pad before them adds the same zeros to every image.

    Networks that came from TensorFlow pad by what the size of their input asks for. The network's input always has one
    size, but the graph works it out for each image; and between a Pad and a convolution, a runtime rearranges all
    features. (A fifth of the time of EfficientNet-Lite0.)

    Parameters
    ----------
    model : with the input "image", B x H x W x 3, all but the last free; changed in place.
    """
    graph = model.graph
    users: dict[str, list[onnx.NodeProto | onnx.ValueInfoProto]] = {each.name: [each] for each in graph.output}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    pads = [
        node
        for node in graph.node
        if node.op_type == "Pad" and [getattr(user, "op_type", "") for user in users[node.output[0]]] == ["Conv"]
    ]
    values = _at_every_size(model, [name for pad in pads for name in pad.input[1:3]])
    for pad in pads:
        (convolution,) = users[pad.output[0]]
        attributes = {each.name: onnx.helper.get_attribute_value(each) for each in convolution.attribute}
        amounts, *more = (values.get(name) if name else np.zeros(1) for name in pad.input[1:])
        mode = next((onnx.helper.get_attribute_value(each) for each in pad.attribute if each.name == "mode"), b"")
        if mode not in (b"", b"constant") or amounts is None or len(amounts) != 8:
            continue
        # A value, and axes where the amounts are not for all.
        if len(more) > 1 or any(value is None or np.any(value) for value in more):
            continue
        begin, end = amounts.reshape(2, 4)
        by_itself = attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        if not by_itself or np.any(amounts < 0) or np.any(begin[:2]) or np.any(end[:2]):
            continue
        together = np.array(attributes.get("pads", [0, 0, 0, 0])) + np.concatenate([begin[2:], end[2:]])
        kept = [each for each in convolution.attribute if each.name != "pads"]
        del convolution.attribute[:]
        convolution.attribute.extend([*kept, onnx.helper.make_attribute("pads", together.tolist())])
        convolution.input[0] = pad.input[0]
        graph.node.remove(pad)
    _drop_unused(graph)


def _at_every_size(model: onnx.ModelProto, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The values in a graph that are the same for images of any size, of those that are named."""
    import onnxruntime

    names = [*dict.fromkeys(name for name in names if name)]
    if not names:
        return {}
    # Only what leads to them: the rest may have hundreds of megabytes of constants.
    graph = model.graph
    asked = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.node, "asked", graph.input, [onnx.helper.make_empty_tensor_value_info(name) for name in names]
        ),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )
    _drop_unused(asked.graph)
    used = {name for node in asked.graph.node for name in node.input}.union(names)
    asked.graph.initializer.extend(each for each in graph.initializer if each.name in used)
    session = onnxruntime.InferenceSession(asked.SerializeToString(), providers=["CPUExecutionProvider"])
    kind = onnx.helper.tensor_dtype_to_np_dtype(model.graph.input[0].type.tensor_type.elem_type)
    one, other = (session.run(names, {"image": np.zeros(shape, kind)}) for shape in [(1, 97, 101, 3), (2, 60, 45, 3)])
    return {name: a for name, a, b in zip(names, one, other, strict=True) if np.array_equal(a, b)}


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants from which nothing leads to an output."""
    needed = {each.name for each in graph.output}
    for node in reversed([*graph.node]):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
    for constant in [*graph.initializer]:
        if constant.name not in needed:
            graph.initializer.remove(constant)


def check_parity(graph: Graph, method: Method, preparation: Preparation, images: Sequence[NDArray[Any]]) -> Parity:
    """Compare the graph, one image at a time and three at a time, with torch on real images.

    torch sees each image alone, once: so a method whose answer depends on its neighbours fails, too.

    Raises
    ------
    ExportError
        If a score differs by more than 1e-3 of its value or a map by more than 1e-3 of its largest, or two images
        change places.
    """
    network = InspectionNetwork(method, preparation).eval()
    with torch.inference_mode():
        answers = [tuple(t[0].numpy() for t in network(torch.from_numpy(image[None]))) for image in images]
    score_difference = map_difference = 0.0
    for batch in PARITY_BATCHES:
        wanted_scores, got_scores = [], []
        for group in _same_shape_groups(images, batch):
            got_map, got = graph.run(np.stack([images[i] for i in group]))
            wanted_map, wanted = (np.stack(each) for each in zip(*(answers[i] for i in group), strict=True))
            scale = np.abs(wanted_map).max() or 1.0
            map_difference = float(np.maximum(map_difference, np.abs(got_map - wanted_map).max() / scale))
            wanted_scores += wanted.tolist()
            got_scores += got.tolist()
        a, b = np.array(wanted_scores), np.array(got_scores)
        # Unlike max(), np.maximum lets NaN through, which no limit then takes.
        score_difference = float(np.maximum(score_difference, (np.abs(a - b) / np.maximum(np.abs(a), 1e-12)).max()))
        # Two images count as having changed places only where torch's scores differ by more than the tolerance.
        order = np.argsort(a)
        apart = np.diff(a[order]) > PARITY_LIMIT * np.abs(a[order][1:])
        if np.any(apart & (np.diff(b[order]) <= 0)):
            raise ExportError("graph and torch rank the same images differently", where=method.name)
    if not map_difference <= PARITY_LIMIT:
        raise ExportError(
            f"graph and torch differ by {map_difference:.2e} of the anomaly map's largest value, the limit is "
            f"{PARITY_LIMIT:g}",
            where=method.name,
        )
    if not score_difference <= PARITY_LIMIT:
        raise ExportError(
            f"graph and torch differ by {score_difference:.2e} of a score, the limit is {PARITY_LIMIT:g}",
            where=method.name,
        )
    return Parity(
        images=len(images),
        batch_sizes=PARITY_BATCHES,
        largest_score_difference=score_difference,
        largest_map_difference=map_difference,
    )


def pack_learned(state: dict[str, Tensor], graph: bytes) -> bytes:
    """The bytes of weights.safetensors: what was learned, without large tensors that the graph holds byte for byte.

    A gallery or a memory bank is a constant of the graph, and would double the model file. `unpack_learned` finds it.
    """
    held: dict[str, str] = {}
    for name, tensor in state.items():
        array = tensor.numpy()
        digest = _digest_in(graph, GRAPH_PREFIX + name, array) if array.nbytes >= LARGE_TENSOR else None
        if digest and digest == _digest(array):
            held[name] = digest
    stated = {IN_THE_GRAPH: json.dumps(held)} if held else None
    packed: bytes = save({name: tensor for name, tensor in state.items() if name not in held}, stated)
    return packed


def unpack_learned(file: ModelFile) -> dict[str, Tensor]:
    """What training produced, from a model file's weights and, for large tensors, its graph.

    Raises
    ------
    ModelFileError
        The graph no longer holds a tensor that the weights leave to it.
    """
    content = file.weights()
    state: dict[str, Tensor] = load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    held = json.loads(header.get("__metadata__", {}).get(IN_THE_GRAPH, "{}"))
    constants = _constants(file.graph) if held else {}
    for name, digest in held.items():
        array = constants.get(GRAPH_PREFIX + name)
        if array is None or _digest(array) != digest:
            raise ModelFileError(
                f"its graph does not hold {name} as it was learned", where=file.path, todo="Train it again"
            )
        state[name] = torch.from_numpy(array.copy())
    return state


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _digest_in(graph: bytes, name: str, like: NDArray[Any]) -> str | None:
    """The digest of a graph's constant of this name, type and shape, None where it holds none.

    It is looked for where it lies, for an opened graph is a copy, and so is a tensor that is taken out of it. Should a
    constant be written with its parts in another order, it is not found.
    """
    kind = onnx.helper.np_dtype_to_tensor_dtype(like.dtype)
    head = onnx.TensorProto(name=name, dims=like.shape, data_type=kind).SerializeToString(deterministic=True)
    # What follows the head is empty up to the length of the values, and the values.
    empty = onnx.TensorProto(raw_data=bytes(1)).SerializeToString()[:1]
    head += empty + _varint(like.nbytes)
    at = graph.find(head)
    if at < 0:
        return None
    return hashlib.sha256(memoryview(graph)[at + len(head) : at + len(head) + like.nbytes]).hexdigest()


def _varint(number: int) -> bytes:
    """A length as protocol buffers write it: seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    return bytes([*written, number])


def _constants(graph: bytes) -> dict[str, NDArray[Any]]:
    """The large named constants of a graph."""
    constants = onnx.load_from_string(graph).graph.initializer
    return {each.name: onnx.numpy_helper.to_array(each) for each in constants if each.ByteSize() >= LARGE_TENSOR}


def _same_shape_groups(images: Sequence[NDArray[Any]], size: int) -> Iterator[list[int]]:
    """The numbers of exactly `size` images of one shape; a group that falls short is filled with the first of them."""
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(number)
    for group in by_shape.values():
        for start in range(0, len(group), size):
            part = group[start : start + size]
            yield part + [group[0]] * (size - len(part))


def _describe(model: onnx.ModelProto, method: Method, contract: ImageContract) -> None:
    """Say in the graph itself what it is, for whoever runs model.onnx without Blemish."""
    model.producer_name, model.producer_version = "blemish", __version__
    facts = {
        "method": method.name,
        "teacher": method.teacher.info.name,
        "input": "image: batch x height x width x 3, RGB, any height and width",
        "images": contract.model_dump_json(),
        "outputs": "anomaly_map: batch x height x width; score: batch; both grow with how abnormal the image is",
    }
    for key, value in facts.items():
        model.metadata_props.add(key=f"blemish.{key}", value=value)


def _forget_origin(model: onnx.ModelProto) -> None:
    """Remove what names the machine that exported: stack traces and paths in the metadata of nodes and values."""
    graph = model.graph
    for holder in [
        graph,
        *graph.node,
        *graph.value_info,
        *graph.input,
        *graph.output,
        *graph.initializer,
        *model.functions,
    ]:
        del holder.metadata_props[:]
        holder.doc_string = ""


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter talks of its own affairs on standard output, in warnings and in logs; users need none of it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

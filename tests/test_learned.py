"""What was learned is in a model file once: a gallery stays in the graph, and is found there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from blemish.assembly import train
from blemish.errors import ModelFileError
from blemish.export import pack_learned, unpack_learned
from blemish.modelfile import open_model_file, write
from factories import make_manifest
from tiny import SIZE, make_parts
from tiny import one_thread as one_thread  # applies to this module


def state() -> dict[str, Tensor]:
    """A bank of 1.2 MB, another of the same size, and small things."""
    generator = torch.Generator().manual_seed(0)
    return {
        "bank": torch.randn(600, 500, generator=generator),
        "gallery": torch.randn(1200, 500, generator=generator).half(),
        "weight": torch.randn(30, 5, generator=generator),
    }


def graph(**constants: Tensor) -> bytes:
    """A graph with these constants, and nothing that uses them."""
    initialisers = [onnx.numpy_helper.from_array(t.numpy(), name) for name, t in constants.items()]
    content: bytes = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], initialisers)).SerializeToString()
    return content


def file(folder: Path, graph: bytes, weights: bytes) -> Path:
    write(folder / "a.blemish", make_manifest(), graph, weights)
    return folder / "a.blemish"


def held(learned: dict[str, Tensor]) -> bytes:
    return graph(**{f"method.{name}": tensor for name, tensor in learned.items()})


def test_large_tensors_that_the_graph_holds_are_stored_there_only(tmp_path: Path) -> None:
    learned = state()
    packed = pack_learned(learned, held(learned))
    assert load(packed).keys() == {"weight"}
    assert len(packed) < 2000
    found = unpack_learned(open_model_file(file(tmp_path, held(learned), packed)))
    assert found.keys() == learned.keys()
    assert all(torch.equal(found[name], learned[name]) and found[name].dtype == learned[name].dtype for name in learned)
    found["bank"][0, 0] = 7  # It is writable, as a tensor of its own is.


@pytest.mark.parametrize("change", ["another name", "another value", "transposed", "another shape"])
def test_what_the_graph_holds_otherwise_is_stored(tmp_path: Path, change: str) -> None:
    learned = state()
    constants = {f"method.{name}": tensor for name, tensor in learned.items()}
    bank = constants.pop("method.bank")
    if change == "another name":
        constants["onnx::MatMul_7"] = bank
    elif change == "another value":
        constants["method.bank"] = bank.clone()
        constants["method.bank"][-1, -1] += 1e-3
    elif change == "transposed":
        constants["method.bank"] = bank.T.contiguous()
    else:
        constants["method.bank"] = bank.reshape(300, 1000)
    packed = pack_learned(learned, graph(**constants))
    assert load(packed).keys() == {"bank", "weight"}
    found = unpack_learned(open_model_file(file(tmp_path, graph(**constants), packed)))
    assert all(torch.equal(found[name], learned[name]) for name in learned)


def test_without_large_tensors_the_weights_are_all_there() -> None:
    learned = {"weight": state()["weight"]}
    packed = pack_learned(learned, held(learned))
    assert torch.equal(load(packed)["weight"], learned["weight"])
    assert b"__metadata__" not in packed


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_a_graph_that_lost_it_is_named(tmp_path: Path, change: str) -> None:
    learned = state()
    packed = pack_learned(learned, held(learned))
    rest = {name: tensor for name, tensor in learned.items() if name != "gallery"}
    if change == "changed":
        rest["gallery"] = learned["gallery"] * 2
    with pytest.raises(ModelFileError, match="does not hold gallery as it was learned"):
        unpack_learned(open_model_file(file(tmp_path, held(rest), packed)))


def test_a_trained_gallery_is_in_the_file_once(tmp_path: Path) -> None:
    """24 images of 16 x 16 places and 176 features in float16 are 2.2 MB."""
    parts = make_parts(tmp_path / "parts", 30)
    out = tmp_path / "part.blemish"
    train(parts, out, method="spade", preset="paper", settings={"image_size": SIZE}, hold_out=0.2, device="cpu")
    opened = open_model_file(out)
    learned = unpack_learned(opened)
    gallery = learned["pixels"]
    assert gallery.shape == (24, 256, 176)
    assert np.prod(gallery.shape) * 2 > 2**21
    assert len(opened.weights()) < 0.2 * gallery.numel() * 2
    assert out.stat().st_size < len(opened.graph) + 0.2 * gallery.numel() * 2

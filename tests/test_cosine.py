from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from blemish.nn.cosine import image_cosine


def maps(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) + 0.5 for _ in range(2))  # type: ignore[return-value]


def as_torch_has_it(a: Tensor, b: Tensor) -> Tensor:
    return F.cosine_similarity(a.double().flatten(1), b.double().flatten(1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_the_cosine_of_whole_maps(kind: torch.dtype, layout: torch.memory_format) -> None:
    a, b = (x.to(kind).contiguous(memory_format=layout) for x in maps(3, 4, 5, 6))

    got = image_cosine(a, b)

    assert got.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    torch.testing.assert_close(got.double(), as_torch_has_it(a, b), atol=1e-6, rtol=1e-6)


def test_its_gradients_are_those_of_both() -> None:
    a, b = (x.requires_grad_() for x in maps(2, 3, 2, 2))
    assert torch.autograd.gradcheck(image_cosine, (a, b))


def test_only_what_learns_gets_a_gradient_in_its_own_type() -> None:
    teacher, student = maps(2, 3, 4, 4)
    teacher, student = teacher.float(), student.bfloat16().requires_grad_()

    (1 - image_cosine(teacher, student)).mean().backward()  # type: ignore[no-untyped-call]

    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16
    wanted = student.detach().double().requires_grad_()
    (1 - as_torch_has_it(teacher, wanted)).mean().backward()  # type: ignore[no-untyped-call]
    assert wanted.grad is not None
    torch.testing.assert_close(student.grad.double(), wanted.grad, atol=1e-4, rtol=0.01)


def test_a_map_of_zeros_is_at_right_angles_to_all() -> None:
    zeros = torch.zeros(1, 2, 3, 3, requires_grad=True)
    cosine = image_cosine(torch.ones(1, 2, 3, 3), zeros)
    cosine.sum().backward()  # type: ignore[no-untyped-call]
    assert cosine.item() == 0
    assert zeros.grad is not None
    assert bool(zeros.grad.isfinite().all())

"""Networks whose work several processes divide: values, gradients and statistics are those of one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load, save
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from blemish.nn.sharing import Share, add_up_gradients, networks_of, shared
from blemish.training.processes import work_together

ROWS = {"even": 6, "uneven": 7, "one each": 3, "fewer than processes": 1}


class Body(nn.Module):
    """Everything that a network may have: two inputs, lists of levels, and all that looks beyond a row."""

    by_rows = ("beside",)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Dropout(0.3), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 4, 3, 2, bias=False), BatchNormAct2d(4), nn.InstanceNorm2d(4))
        self.flat = nn.BatchNorm1d(5, momentum=0.3)
        self.rows: list[int] = []

    def forward(self, levels: list[Tensor], codes: Tensor) -> list[Tensor]:
        self.rows.append(len(levels[0]))
        first = self.first(levels[0] + levels[1])
        return [first, self.second(first), self.flat(codes)]

    def beside(self, image: Tensor) -> Tensor:
        """Calls `forward`, whose work is not to be divided a second time."""
        codes = image.mean((2, 3)).repeat(2, 1) @ image.new_ones(3, 5)
        result: Tensor = self([image, image], codes)[0]
        return result


class Whole(nn.Module):
    """A divided network, two below a list of modules, and parameters that are used on the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.body = Body()
        self.more = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1)])
        self.factor = nn.Parameter(torch.tensor([1.5, -0.5, 0.7, 1.0]))

    def loss(self, image: Tensor, codes: Tensor) -> Tensor:
        """A loss that is no mean over images: it compares each with the others, and draws at random."""
        image = image + self.offset
        first, second, flat = self.body([image, 2 * image], codes)
        last = self.more[1](self.more[0](second * self.factor.view(1, -1, 1, 1)).tanh())
        return (
            (last - last.mean(0, keepdim=True)).square().sum()
            + (first * torch.rand(first.shape)).square().mean().sqrt()
            + flat.std(0).sum() * first.mean()
            + (flat[0] * flat[-1]).sum()
            + self.body.beside(image).square().mean()
        )


@dataclass(frozen=True)
class Steps:
    """Two steps of gradient descent on made-up batches, in training mode, by one process or several."""

    channels_last: bool

    def __call__(self, rank: int, tell: Callable[[object], None]) -> None:
        share = Share(rank, torch.distributed.get_world_size())
        found = {name: save(self.take(rows, share)) for name, rows in ROWS.items()}
        if rank == share.processes - 1:
            tell(found)

    def take(self, rows: int, share: Share) -> dict[str, Tensor]:
        """Losses, gradients and statistics by name."""
        torch.manual_seed(rows)
        whole, image, codes = Whole().train(), torch.randn(rows, 3, 8, 8), torch.randn(max(rows, 2), 5)
        if self.channels_last:
            whole.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            image = image.to(memory_format=torch.channels_last)
        found: dict[str, Tensor] = {}
        for step in range(2):
            torch.manual_seed(step)
            with shared(networks_of(whole), share):
                loss = whole.loss(image, codes)
            (loss / share.processes).backward()  # type: ignore[no-untyped-call]
            add_up_gradients(whole.parameters(), share)
            found[f"loss {step}"] = loss.detach()
            found[f"next draw {step}"] = torch.rand(3)
            with torch.no_grad():
                for name, parameter in whole.named_parameters():
                    assert parameter.grad is not None
                    found[f"{name} {step}"] = parameter.grad.contiguous().clone()
                    parameter -= 0.01 * parameter.grad
                    parameter.grad = None
        found["rows"] = torch.tensor(whole.body.rows)
        return found | {name: buffer.clone() for name, buffer in whole.named_buffers()}


@dataclass(frozen=True)
class Found:
    """What one process finds and what the last of several does, by the kind of batch."""

    processes: int
    by_one: dict[str, dict[str, Tensor]]
    by_several: dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module", params=[(2, False), (3, True)], ids=["two", "three, channels last"])
def found(request: pytest.FixtureRequest) -> Found:
    processes, channels_last = request.param
    heard: list[dict[str, bytes]] = []
    steps = Steps(channels_last)
    work_together(steps, processes, backend="gloo", threads=1, hear=heard.append)
    assert len(heard) == 1
    by_one = {name: steps.take(rows, Share()) for name, rows in ROWS.items()}
    return Found(processes, by_one, {name: load(content) for name, content in heard[0].items()})


@pytest.mark.parametrize("rows", ROWS)
def test_values_gradients_and_statistics_are_those_of_one_process(found: Found, rows: str) -> None:
    wanted, got = dict(found.by_one[rows]), found.by_several[rows]
    assert wanted.keys() == got.keys()
    del wanted["rows"]
    for name, tensor in wanted.items():
        # What one process computes in one sum, several compute in parts: the last bits of float32.
        limit = 2e-5 * max(1.0, float(tensor.abs().max()))
        assert float((got[name] - tensor).abs().max()) <= limit, name
    assert int(got["body.flat.num_batches_tracked"]) == 4


@pytest.mark.parametrize("rows", ROWS)
def test_a_network_sees_a_part_where_there_is_one_for_each_process(found: Found, rows: str) -> None:
    whole = ROWS[rows]
    part = -(-whole // found.processes) if whole >= found.processes else whole
    assert found.by_one[rows]["rows"].tolist() == [whole] * 4
    assert found.by_several[rows]["rows"].tolist() == [part] * 4


def test_random_numbers_are_those_of_one_process(found: Found) -> None:
    for rows in ROWS:
        for step in range(2):
            name = f"next draw {step}"
            assert torch.equal(found.by_one[rows][name], found.by_several[rows][name])


def test_a_part_is_contiguous_and_the_parts_are_all() -> None:
    for processes in (1, 2, 3, 5):
        for rows in range(processes, 12):
            parts = [range(rows)[Share(rank, processes).part(rows)] for rank in range(processes)]
            assert [row for part in parts for row in part] == list(range(rows))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert Share(1, 3).part(2) == slice(0, 2)


def test_networks_are_what_has_parameters_also_in_lists() -> None:
    module = nn.Module()
    module.plain, module.nothing = nn.Linear(2, 2), nn.ReLU()
    module.several = nn.ModuleList([nn.Linear(2, 2), nn.ModuleList([nn.Sequential(nn.Linear(2, 2))])])
    inner = module.several[1]
    assert isinstance(inner, nn.ModuleList)
    assert networks_of(module) == [module.plain, module.several[0], inner[0]]


def test_networks_are_themselves_again_afterwards() -> None:
    network = nn.Linear(2, 2)
    before = dict(vars(network))
    with shared([network, network], Share(0, 2)):
        assert "forward" in vars(network)
    assert vars(network) == before
    with shared([network], Share()):
        assert vars(network) == before

"""Several processes, one batch: each runs a network on its part of the rows, and every process gets all rows.

Whoever calls such a network sees the whole batch, as in one process: losses over a batch, random draws and memory banks
are computed by every process alike, and only the networks' work is divided. Gradients pass: a process gets those of its
rows from all processes, so that the sum over processes of a parameter's gradients is that of the sum of their losses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Share:
    """Which process this is: number `rank`, from 0, of `processes` that have a process group in common."""

    rank: int = 0
    processes: int = 1

    @property
    def alone(self) -> bool:
        """True where one process does everything."""
        return self.processes == 1

    def starts(self, rows: int) -> list[int]:
        """Where each process's part of `rows` rows begins, and last, where they end: as equal as can be."""
        return [rank * rows // self.processes for rank in range(self.processes + 1)]

    def part(self, rows: int) -> slice:
        """This process's rows; all of them where there are fewer than processes, so that none has nothing to do."""
        if rows < self.processes:
            return slice(0, rows)
        starts = self.starts(rows)
        return slice(starts[self.rank], starts[self.rank + 1])

    def whole(self, own: Tensor, rows: int) -> Tensor:
        """All `rows` rows, from each process's `part`; the gradient passes."""
        if self.alone or rows < self.processes:
            return own
        gathered: Tensor = _Gathered.apply(own, self, rows)  # type: ignore[no-untyped-call]
        return gathered


def networks_of(module: nn.Module) -> list[nn.Module]:
    """The networks that a module has as attributes, also in lists of modules: what is called and has parameters."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found += networks_of(child)
        elif next(child.parameters(), None) is not None:
            found.append(child)
    return found


@contextmanager
def shared(networks: Iterable[nn.Module], share: Share) -> Iterator[None]:
    """While it lasts, a call of one of these networks is divided among the processes, by rows of its tensors.

    So are calls of the methods that a network names in `by_rows`, which treat each row as `forward` does. Batch
    normalisation in training mode takes the statistics of all rows, and dropout draws for all rows, as one process
    would. A call whose tensors have other numbers of rows than one another, or fewer rows than there are processes, is
    made by every process for itself.
    """
    divided = [] if share.alone else list(dict.fromkeys(networks))
    division = _Division(share)
    names = {network: ("forward", *getattr(network, "by_rows", ())) for network in divided}
    for network in divided:
        for name in names[network]:
            setattr(network, name, partial(division.call, getattr(network, name)))
    try:
        yield
    finally:
        for network in divided:
            for name in names[network]:
                delattr(network, name)


def add_up_gradients(parameters: Iterable[nn.Parameter], share: Share) -> None:
    """Add the gradients of all processes, in place; every process must have those of the same parameters."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if share.alone or not gradients:
        return
    # In one message: small ones cost a round trip each.
    total = torch.cat([gradient.float().flatten() for gradient in gradients])
    dist.all_reduce(total)
    start = 0
    for gradient in gradients:
        end = start + gradient.numel()
        gradient.copy_(total[start:end].view(gradient.shape))
        start = end


def gather(own: Tensor, counts: Sequence[int]) -> Tensor:
    """The rows of all processes, one process after the other; process i has `counts[i]` of them. No gradient."""
    # Contiguous, whatever it was: processes need not agree on the layout. As bytes: not every transport knows bfloat16.
    padded = own.new_zeros(max(counts), *own.shape[1:])
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather([part.view(torch.uint8) for part in parts], padded.view(torch.uint8))
    whole = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
    return _laid_out(whole, own)


def _laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    if like.ndim == 4 and not like.is_contiguous() and like.is_contiguous(memory_format=torch.channels_last):
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, share: Share, rows: int) -> Tensor:
        starts = share.starts(rows)
        ctx.part = share.part(rows)
        return gather(own, [end - start for start, end in pairwise(starts)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        # A copy, for the sum is taken in place.
        total = gradient.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return _laid_out(total[ctx.part].to(gradient.dtype), gradient), None, None


class _Division:
    """Divides calls; not those that a divided call makes in turn."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self.inside = False

    def call(self, function: Callable[..., Any], *inputs: Any) -> Any:
        """What `function` gives for `inputs`, tensors or lists of tensors."""
        share = self.share
        lists = [[given] if isinstance(given, Tensor) else given for given in inputs]
        numbers = {len(tensor) for tensors in lists for tensor in tensors}
        if self.inside or len(numbers) != 1 or (rows := numbers.pop()) < share.processes:
            return function(*inputs)
        part = share.part(rows)
        own = [given[part] if isinstance(given, Tensor) else [tensor[part] for tensor in given] for given in inputs]
        self.inside = True
        try:
            with _AsOneBatch(share, rows):
                answer = function(*own)
        finally:
            self.inside = False
        answers: list[Tensor] = [answer] if isinstance(answer, Tensor) else answer
        if any(len(tensor) != part.stop - part.start for tensor in answers):
            raise TypeError("a network whose work is divided must give a row for each row that it takes")
        wholes = [share.whole(tensor, rows) for tensor in answers]
        return wholes[0] if isinstance(answer, Tensor) else wholes


class _AsOneBatch(TorchFunctionMode):
    """What looks beyond a row, looks at all rows: batch statistics, and the random numbers of dropout.

    Functions are replaced, not modules: whatever subclass a network has, it normalises by these.
    """

    def __init__(self, share: Share, rows: int) -> None:
        super().__init__()
        self.share, self.rows = share, rows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        if func is F.dropout:
            return self._dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not (training and p):
            return x
        # Drawn in the order of memory, so the layout must be that of the whole batch.
        whole = _laid_out(x.new_ones(self.rows, *x.shape[1:]), x)
        return x * F.dropout(whole, p)[self.share.part(self.rows)]


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, in training mode by the statistics of the rows of all processes."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    width = x.shape[1]
    weight = torch.ones(width, device=x.device) if weight is None else weight
    bias = torch.zeros(width, device=x.device) if bias is None else bias
    normalised: Tensor
    normalised, count, mean, variance = _Normalised.apply(x, weight, bias, eps)  # type: ignore[no-untyped-call]
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    return normalised


class _Normalised(torch.autograd.Function):
    """Batch normalisation over the rows of all processes: also gives their count, mean and variance.

    The statistics of the processes are merged as Chan, Golub and LeVeque (1983) do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        others = [0, *range(2, x.ndim)]
        variance, mean = torch.var_mean(x.float(), others, correction=0)
        count = torch.full_like(mean, x.numel() / x.shape[1])
        own = torch.stack([count, mean, variance]).double()[None]
        counts, means, variances = gather(own, [1] * dist.get_world_size()).unbind(1)
        total = counts.sum(0)
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        mean, variance, total = mean.float(), variance.float(), total.float()
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt(), total)
        ctx.mark_non_differentiable(total, mean, variance)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps), total, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        x, weight, mean, scale, count = ctx.saved_tensors
        shape = (1, -1, *[1] * (x.ndim - 2))
        others = [0, *range(2, x.ndim)]
        gradient = gradients[0].float()
        standardised = (x.float() - mean.view(shape)) * scale.view(shape)
        own = torch.stack([gradient.sum(others), (gradient * standardised).sum(others)])
        total = own.clone()
        dist.all_reduce(total)
        shift, slope = (total / count).view(2, *shape)
        of_x = (weight * scale).view(shape) * (gradient - shift - standardised * slope)
        return of_x.to(x.dtype), own[1], own[0], None

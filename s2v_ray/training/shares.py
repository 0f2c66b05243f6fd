"""The shares of the workers in a batch: sizes, weights, and codes of all workers.

Engines average gradients over workers with equal weights, and a batch need not divide by the number of workers. So each
worker multiplies the mean loss of its clips by ``Shares.weight``, and terms that compare clips with each other are
computed from ``Shares.gathered`` codes, on every worker the same. The step then equals that of a single worker with the
whole batch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from s2v_ray.training import collective


@dataclass(frozen=True)
class Shares:
    """Clips of every worker in each micro-batch of a step.

    Attributes:
        sizes: rank -> micro-batch -> number of clips.
        rank: this worker.
    """

    sizes: tuple[tuple[int, ...], ...]
    rank: int

    @classmethod
    def of_workers(cls, sizes: Sequence[int], known: Shares | None = None) -> Shares:
        """Collect the sizes of all workers' micro-batches. All workers call it, with equally many micro-batches.

        Args:
            sizes: of this worker.
            known: shares of an earlier step, which are returned if the sizes are still the same. Sizes must change on
                all workers in the same step.
        """
        if known is not None and known.sizes[known.rank] == tuple(sizes):
            return known
        return cls(tuple(collective.gather(tuple(sizes))), collective.worker()[0])

    @property
    def total(self) -> int:
        """Number of clips in a step over all workers."""
        return sum(map(sum, self.sizes))

    def weight(self, part: int) -> float:
        """Return the factor on the mean loss of this worker's clips in a micro-batch; 1 for equal, undivided shares."""
        return len(self.sizes) * self.sizes[self.rank][part] / self.total

    def whole_weight(self, part: int) -> float:
        """Return the factor on a loss of all workers' clips in a micro-batch; 1 for undivided shares."""
        return sum(sizes[part] for sizes in self.sizes) / self.total

    def gathered(self, codes: Tensor, part: int) -> Tensor:
        """Return the codes of all workers' clips in a micro-batch, ``[B, D]`` -> ``[sum of B, D]``, by rank.

        The gradient reaches this worker's codes, multiplied by the number of workers, because the engine averages over
        them. All workers call it.
        """
        sizes = [worker[part] for worker in self.sizes]
        if len(sizes) == 1:
            return codes
        gathered: Tensor = _Gather.apply(codes, sizes, self.rank)  # type: ignore[no-untyped-call]  # torch's method
        return gathered

    def mean(
        self, scalars: Sequence[Mapping[str, Tensor | float]], whole: Collection[str] = ()
    ) -> dict[str, Tensor | float]:
        """Return this worker's contribution to the step's scalars: their mean over workers is that over all clips.

        Args:
            scalars: scalars of each micro-batch, all with the same names.
            whole: names of those that are computed from all workers' clips.
        """
        return {
            name: sum(
                values[name] * (self.whole_weight(part) if name in whole else self.weight(part))
                for part, values in enumerate(scalars)
            )
            for name in scalars[0]
        }


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, codes: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = codes.new_zeros(max(sizes), *codes.shape[1:])  # collective operations need equal shapes
        padded[: len(codes)] = codes
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        return torch.cat([values[:size] for values, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient.split(ctx.sizes)[ctx.rank] * len(ctx.sizes), None, None

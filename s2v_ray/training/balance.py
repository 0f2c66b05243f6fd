"""Weights of loss terms by the norms of their gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from s2v_ray.training import collective

WeightedTerms = Mapping[str, tuple[float, Tensor]]
"""Name -> weight and value of a loss term."""


class GradientBalance:
    """Combines the gradients of several losses on one output, each scaled to a share of a reference gradient's norm.

    As the loss balancer of EnCodec (Défossez et al. 2022, arXiv 2210.13438, section 3.4): the weight of a term is the
    norm of its gradient on the output relative to the reference term's, so that it means the same whatever the scale of
    its loss and however far training has come. The norms are moving averages of earlier steps, equal on all workers. A
    term counts from its second step on.

    Args:
        reference: name of the reference term.
        decay: of the moving averages.
    """

    def __init__(self, reference: str, decay: float = 0.9) -> None:
        self.reference, self.decay = reference, decay
        self.squares: dict[str, float] = {}
        self._seen: list[tuple[list[str], Tensor]] = []

    def combine(self, output: Tensor, terms: WeightedTerms) -> Tensor:
        """Computes the combined gradient on ``output``.

        Args:
            output: that all terms were computed from.
            terms: the reference term, whose weight is a plain factor, and those that are scaled.

        Returns:
            gradient of the shape of ``output``, float32, without a graph.
        """
        # Terms of one discriminator share a part of their graphs, so no call may free it.
        gradients = {
            name: torch.autograd.grad(value, output, retain_graph=True)[0].float() for name, (_, value) in terms.items()
        }
        self._seen.append((list(gradients), torch.stack([g.square().sum() for g in gradients.values()])))
        total = torch.zeros_like(output, dtype=torch.float32)
        for name, gradient in gradients.items():
            total.add_(gradient, alpha=self.factor(name, terms[name][0]))
        return total

    def factor(self, name: str, weight: float) -> float:
        """Returns the factor on a term's gradient."""
        if name == self.reference:
            return weight
        own, reference = self.squares.get(name, 0.0), self.squares.get(self.reference, 0.0)
        return weight * (reference / own) ** 0.5 if own > 0.0 else 0.0

    def update(self) -> None:
        """Adds the gradients since the last call to the moving averages. All workers call it after each step."""
        if not self._seen:
            return
        names = self._seen[0][0]
        squares = collective.mean(torch.stack([values for _, values in self._seen]).sum(0))
        for name, value in zip(names, squares.tolist(), strict=True):
            known = self.squares.get(name)
            self.squares[name] = value if known is None else self.decay * known + (1 - self.decay) * value
        self._seen = []

    def discard(self) -> None:
        """Forgets the gradients since the last ``update``: their step is skipped."""
        self._seen = []

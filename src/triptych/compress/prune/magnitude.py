"""Importance of a unit by the size of its weights; needs no data.

Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017 (with the L1 norm).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.compress.prune.width import by_unit, check_member, tensor_of
from triptych.registry import register
from triptych.structure import Settings, Width


@register("importance", "magnitude")
class Magnitude:
    """score(u) = the norm of all producer weights that unit u owns.

    Biases and norm scales are left out, unless a width has no producers but these.
    """

    class Config(Settings):
        """Which norm: 2 (Euclidean) or 1 (sum of absolute values)."""

        order: Literal[1, 2] = 2

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    @torch.no_grad()
    def score(
        self,
        model: nn.Module,
        widths: Sequence[Width],
        batches: Iterable[Any] = (),  # noqa: ARG002 - the measures are called alike
        loss: Callable[[nn.Module, Any], Tensor] | None = None,  # noqa: ARG002 - as batches
    ) -> dict[str, Float[Tensor, "_"]]:
        """One float64 score per unit, on the CPU, by name of the width; the larger, the more a unit matters."""
        return {width.name: self._score(model, width) for width in widths}

    def _score(self, model: nn.Module, width: Width) -> Float[Tensor, "_"]:
        owned = {}
        for member in width.producers:
            tensor = tensor_of(model, member.parameter)
            check_member(width, member, tensor)
            if isinstance(tensor, nn.Parameter):  # running statistics are no weights
                owned[id(tensor), member.axis] = tensor, member  # a tied parameter counts once
        weights = [pair for pair in owned.values() if pair[0].dim() > 1] or list(owned.values())
        rows = [by_unit(tensor.double().cpu(), member, width.units) for tensor, member in weights]
        return torch.cat([torch.zeros(width.units, 0, dtype=torch.float64), *rows], 1).norm(self.config.order, dim=1)

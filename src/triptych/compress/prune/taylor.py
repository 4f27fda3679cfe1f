"""Importance of a unit by how much the loss would change without it, to first order.

Molchanov et al., "Importance Estimation for Neural Network Pruning", CVPR 2019, the contribution of a group: for the
parameters w of unit u with gradients g,

    squared:   score(u) = E_batch[ (sum_{i in u} g_i w_i)^2 ]
    absolute:  score(u) = E_batch[ |sum_{i in u} g_i w_i| ]
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from triptych.compress.prune.width import by_unit, check_member, tensor_of
from triptych.errors import InputError, NumericsError
from triptych.registry import register
from triptych.structure import Member, Settings, Width

Owned = dict[str, list[tuple[nn.Parameter, Member]]]  # by name of the width


@register("importance", "taylor")
class Taylor:
    """First-order Taylor expansion of the loss around the removal of a unit."""

    class Config(Settings):
        """Whether the change is squared (the paper's choice, swayed by rare large changes) or taken absolutely."""

        change: Literal["squared", "absolute"] = "squared"

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or self.Config()

    def score(
        self,
        model: nn.Module,
        widths: Sequence[Width],
        batches: Iterable[Any],
        loss: Callable[[nn.Module, Any], Tensor],
    ) -> dict[str, Float[Tensor, "_"]]:
        """One float64 score per unit, on the CPU, by name of the width; the larger, the more a unit matters.

        The model runs in evaluation mode; its gradients, mode and frozen parameters are afterwards what they were.

        Args:
            model: the model to which the widths' names are relative.
            widths: whose units are scored.
            batches: at least one; the mean is over batches, so they should be of one size.
            loss: the scalar that must not change, of the model and a batch.

        Raises:
            InputError: there are no batches, or no gradient reaches a width.
            NumericsError: the loss or a score is not finite.
        """
        owned = {width.name: _parameters(model, width) for width in widths}
        parameters = list({id(p): p for pairs in owned.values() for p, _ in pairs}.values())
        totals = {width.name: torch.zeros(width.units, dtype=torch.float64) for width in widths}
        reached: set[str] = set()
        count = 0
        with _differentiable(model, parameters):
            for batch in batches:
                gradients = _gradients(loss(model, batch), parameters, count)
                for width in widths:
                    present = [(p, m, gradients[id(p)]) for p, m in owned[width.name] if id(p) in gradients]
                    products = [by_unit(g.double() * p.detach().double(), m, width.units).sum(1) for p, m, g in present]
                    if products:
                        reached.add(width.name)
                        change = torch.stack(products).sum(0).cpu()
                        totals[width.name] += change.square() if self.config.change == "squared" else change.abs()
                count += 1
        _check(widths, totals, reached, count)
        return {name: total / count for name, total in totals.items()}


def _parameters(model: nn.Module, width: Width) -> list[tuple[nn.Parameter, Member]]:
    """The width's producer parameters (running statistics have no gradient); a tied one counts once."""
    owned = {}
    for member in width.producers:
        tensor = tensor_of(model, member.parameter)
        check_member(width, member, tensor)
        if isinstance(tensor, nn.Parameter):
            owned[id(tensor), member.axis] = tensor, member
    return list(owned.values())


def _gradients(value: Tensor, parameters: list[nn.Parameter], batch: int) -> dict[int, Tensor]:
    """Gradient by id of the parameter, of those that the loss depends on."""
    if not bool(torch.isfinite(value).all()):
        raise NumericsError(f"The loss of calibration batch {batch} is not finite.", "Check that batch and the model.")
    if not value.requires_grad:
        return {}
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    return {id(p): g for p, g in zip(parameters, gradients, strict=True) if g is not None}


def _check(widths: Sequence[Width], totals: dict[str, Tensor], reached: set[str], count: int) -> None:
    if count == 0:
        raise InputError("There are no calibration batches to score units with.", "Give at least one.")
    for width in widths:
        if width.name not in reached:
            raise InputError(
                f"No gradient reaches width {width.name!r}.",
                "Calibrate with samples that have its modality, or leave it whole.",
            )
        if not bool(torch.isfinite(totals[width.name]).all()):
            raise NumericsError(f"A score of width {width.name!r} is not finite.", "Check the model's weights.")


@contextmanager
def _differentiable(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Evaluation mode, with gradients for just these parameters."""
    modes = {module: module.training for module in model.modules()}
    wanted = {p: p.requires_grad for p in model.parameters()}
    recurrent = any(isinstance(module, nn.RNNBase) for module in modes)
    # cuDNN's recurrent layers refuse to differentiate in evaluation mode
    cudnn = torch.backends.cudnn.flags(enabled=torch.backends.cudnn.enabled and not recurrent)
    try:
        model.eval().requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        with torch.enable_grad(), cudnn:
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)

"""Drops whole residual blocks, those that change their input least.

Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024: Block Influence is
1 - E[cos(x_in, x_out)] over the vectors that pass. It is a screen: blocks that look harmless alone may matter together,
so the choice between candidates must be measured on the model's task.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from triptych.errors import InputError


class Dropped(nn.Identity):
    """Stands where a block was: passes its first input on and ignores masks and other arguments."""

    def forward(self, input: Any, *_args: Any, **_settings: Any) -> Any:  # noqa: A002 - nn.Identity's name
        """The input itself."""
        return input


def drop(model: nn.Module, name: str) -> None:
    """Replace a block by the identity, in place; the names of other blocks stay.

    Raises:
        InputError: there is no such block, or it is dropped already.
    """
    if isinstance(_block(model, name), Dropped):
        raise InputError(f"Block {name!r} is dropped already.", "Name each block once.")
    model.set_submodule(name, Dropped())


def dropped(model: nn.Module) -> list[str]:
    """Names of the blocks that were dropped: calling `drop` with each on a fresh model gives the same layers."""
    return [name for name, module in model.named_modules() if isinstance(module, Dropped)]


def block_influence(
    model: nn.Module, names: Sequence[str], batches: Iterable[Any], run: Callable[[nn.Module, Any], object]
) -> dict[str, float]:
    """Mean change of direction between the input and the output of each block, from 0 (none) to 2 (reversal).

    Args:
        model: runs in evaluation mode and without gradients; its mode is restored.
        names: residual blocks whose output has the shape of their input: [batch, tokens, width], [batch, width] or
            [batch, channels, height, width].
        batches: calibration batches.
        run: how the model is called with one.

    Raises:
        InputError: an unknown block, one that changes the shape of its input, or one that no batch reached.
    """
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)

    def watch(name: str) -> RemovableHandle:
        def record(_block: nn.Module, args: tuple[Any, ...], settings: dict[str, Any], output: Any) -> None:
            cosines = _cosines(name, _first(args, settings), _first((output,), {}))
            sums[name] += float(cosines.sum(dtype=torch.float64))
            counts[name] += cosines.numel()

        return _block(model, name).register_forward_hook(record, with_kwargs=True)

    modes = {module: module.training for module in model.modules()}
    handles = [watch(name) for name in names]
    try:
        model.eval()
        with torch.no_grad():
            for batch in batches:
                run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes.items():
            module.training = training
    for name in names:
        if counts[name] == 0:
            raise InputError(f"No calibration sample reached block {name!r}.", "Give samples that have its modality.")
    return {name: 1 - sums[name] / counts[name] for name in names}


def _block(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise InputError(f"The model has no block {name!r}.", "Choose one that it calls droppable.") from None


def _first(args: tuple[Any, ...], settings: dict[str, Any]) -> Tensor:
    """The tensor that flows along the residual path: the first, in a tuple or by name."""
    for value in (*args, *settings.values()):
        if isinstance(value, Tensor):
            return value
        if isinstance(value, tuple | list):
            return _first(tuple(value), {})
    raise InputError("A block passes no tensor on.", "Only blocks from tensor to tensor can be dropped.")


def _cosines(name: str, before: Float[Tensor, "..."], after: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Cosine of each vector; 1 where both are zero, as nothing was changed."""
    if before.shape != after.shape:
        raise InputError(
            f"Block {name!r} turns {tuple(before.shape)} into {tuple(after.shape)}.",
            "It cannot be replaced by nothing.",
        )
    axis = 1 if before.dim() == 4 else -1  # images keep their channels first
    unchanged = (before == 0).all(axis) & (after == 0).all(axis)
    return nn.functional.cosine_similarity(before.float(), after.float(), axis).masked_fill(unchanged, 1.0)

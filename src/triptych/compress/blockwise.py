"""Rounding a whole block together: the driver's way to AutoRound, which learns from what a block computes.

At the first stop in a block all samples wait inside of it, and what it was called with is known. The block runs on that
with its own weights: its outputs are the targets, and the inputs of its layers give GPTQ's codes, which learning starts
from. The block's later stops find their codes chosen. Held in memory: the block twice and what it computes.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from triptych.compress.lockstep import Arguments
from triptych.compress.quantize import autoround, gptq
from triptych.compress.quantize.grid import Codes, Grid
from triptych.models.stream import Stream
from triptych.models.tiny_batch import ModelBatch

METHOD = "autoround"
SAMPLES = 8  # a step of learning, as the paper has it

Moment = Callable[[str, Mapping[int, Tensor]], Tensor]


def round_block(
    stream: Stream,
    path: str,
    calls: Mapping[int, Arguments],
    grids: Mapping[str, Grid],
    moment: Moment,
    batches: Sequence[ModelBatch],
    seed: int = 0,
) -> dict[str, Codes]:
    """Codes of the layers of one block.

    Args:
        stream: the model; it is not changed.
        path: the block's name.
        calls: what it is called with, by batch number.
        grids: by layer name within the block. Layers that meet no input are left out of the result.
        moment: E[x x'] from a layer's name in the model and its inputs by batch number.
        batches: all calibration samples.
        seed: of the draw.

    Raises:
        NumericsError: what the block computes is NaN or infinite.
    """
    block = standing_alone(stream, path)
    targets, inputs = _run(block, calls, grids)
    moments = {layer: moment(f"{path}.{layer}", given) for layer, given in inputs.items()}
    start = {
        layer: gptq.quantize(block.get_submodule(layer).get_parameter("weight"), moments[layer], grids[layer])
        for layer in moments
    }
    numbers = list(calls)
    rows = sum(len(targets[number]) for number in numbers) / len(numbers)
    with torch.enable_grad():
        return autoround.learn(
            block,
            [calls[number] for number in numbers],
            [targets[number] for number in numbers],
            {layer: grids[layer] for layer in moments},
            start,
            batch=max(1, round(SAMPLES / rows)),
            seed=seed,
            weights=[_real(targets[number], batches[number]) for number in numbers],
        )


def standing_alone(stream: Stream, path: str) -> nn.Module:
    """A copy of a part of the model with all of its weights in memory and no hooks."""
    part = copy.deepcopy(stream.model.get_submodule(path))
    for name, module in part.named_modules():
        module._forward_pre_hooks.clear()
        module._forward_hooks.clear()
        module.__dict__.pop("forward", None)  # of giant matrices
        for attribute in list(module._parameters):
            whole = f"{path}.{name}.{attribute}".replace("..", ".")
            if whole in stream.streamed:
                setattr(module, attribute, nn.Parameter(stream.read(whole), requires_grad=False))
    return part


def _run(
    block: nn.Module, calls: Mapping[int, Arguments], layers: Mapping[str, Any]
) -> tuple[dict[int, Tensor], dict[str, dict[int, Tensor]]]:
    """The block's outputs, and the inputs of its layers, by batch number."""
    inputs: dict[str, dict[int, Tensor]] = {}
    targets: dict[int, Tensor] = {}

    def note(layer: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:  # noqa: ARG001
            inputs.setdefault(layer, {}).setdefault(len(targets), given[0])

        return hook

    handles = [block.get_submodule(layer).register_forward_pre_hook(note(layer)) for layer in layers]
    with torch.no_grad():
        for number, (args, kwargs) in calls.items():
            output = block(*args, **kwargs)
            targets[number] = output[0] if isinstance(output, tuple) else output
    for handle in handles:
        handle.remove()
    numbers = list(calls)
    return targets, {layer: {numbers[place]: x for place, x in given.items()} for layer, given in inputs.items()}


def _real(target: Tensor, batch: ModelBatch) -> Tensor:
    """1 at the positions of an output that are no padding."""
    mask = batch.inputs.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == target.shape[:-1]:
        return mask.to(target.dtype)
    return torch.ones(target.shape[:-1], dtype=target.dtype)

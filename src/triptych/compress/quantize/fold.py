"""Folding batch norms into the layers before them: they cost nothing then, and what is rounded is what runs.

In evaluation mode a batch norm is y = (x - mean) * gamma / sqrt(var + eps) + beta, channel by channel; behind a
convolution or linear layer it is that layer with its rows and biases scaled and shifted. Pairs are found by running the
model once: a norm whose input is the very tensor that a layer returned, with nothing else reading that tensor.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from triptych.compress.quantize.moments import Batch, call
from triptych.errors import NumericsError

Layer = nn.Conv1d | nn.Conv2d | nn.Linear
Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass
class _Run:
    """What one run of the model showed; tensors are kept so that none takes the identity of another."""

    made: list[tuple[str, Tensor]] = field(default_factory=list)  # (layer, its output), in order
    normed: list[tuple[str, Tensor]] = field(default_factory=list)  # (norm, its input), in order
    read: dict[int, int] = field(default_factory=dict)  # id of a layer's output -> functions that made a tensor of it


class _Readers(TorchFunctionMode):
    """Counts the functions that compute something from a layer's output."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):  # asking for a shape is not reading
            for leaf in tree_leaves((args, dict(kwargs or {}))):
                if isinstance(leaf, Tensor) and id(leaf) in self.run.read:
                    self.run.read[id(leaf)] += 1
        return result


def fold(model: nn.Module, batch: Batch, tolerance: float = 1e-4) -> dict[str, str]:
    """Folds every batch norm that directly follows a convolution or linear layer, in place; it becomes nn.Identity.

    Args:
        model: put into evaluation mode.
        batch: one batch to run the model on (see `moments.Batch`).
        tolerance: how far any output may move, relative to the largest; float32 alone moves deep networks by some 1e-5.

    Returns:
        The norms that were folded, and the layer each went into: {norm: layer}.

    Raises:
        NumericsError: the outputs moved by more than the tolerance; the model is as it was.
    """
    model.eval()
    with torch.no_grad():
        run, output = _watch(model, batch)
        before = _tensors(output)
        pairs = _pairs(model, run, before)
        if not pairs:
            return {}
        saved = {layer: (_module(model, layer, Layer).weight, _module(model, layer, Layer).bias) for layer, _ in pairs}
        norms = {norm: _module(model, norm, Norm) for _, norm in pairs}
        for layer, norm in pairs:
            _merge(_module(model, layer, Layer), norms[norm])
            model.set_submodule(norm, nn.Identity())
        moved = _difference(before, _tensors(call(model, batch)))
        if not moved <= tolerance:
            for layer, (weight, bias) in saved.items():
                module = _module(model, layer, Layer)
                module.weight, module.bias = weight, bias
            for norm, module in norms.items():
                model.set_submodule(norm, module)
            raise NumericsError(
                f"Folding the norms {', '.join(norms)} moved the model's output by {moved:.2g} of its size.",
                "Compress without folding.",
            )
    return {norm: layer for layer, norm in pairs}


def _module(model: nn.Module, name: str, kind: Any) -> Any:
    module = model.get_submodule(name)
    assert isinstance(module, kind)
    return module


def _tensors(output: Any) -> list[Tensor]:
    """The tensors in whatever a model returns, an object with attributes included."""
    tree = output if isinstance(output, Tensor | tuple | list | Mapping) else vars(output)
    return [leaf for leaf in tree_leaves(dict(tree) if isinstance(tree, Mapping) else tree) if isinstance(leaf, Tensor)]


def _watch(model: nn.Module, batch: Batch) -> tuple[_Run, Any]:
    """Runs the model once and notes which layer made and which norm read which tensor."""
    run = _Run()
    with _hooks(model, run), _Readers(run):
        output = call(model, batch)
    return run, output


@contextmanager
def _hooks(model: nn.Module, run: _Run) -> Iterator[None]:
    def after(name: str) -> Any:
        def note(module: nn.Module, inputs: Any, output: Tensor) -> None:  # noqa: ARG001 - torch's signature
            run.made.append((name, output))
            run.read.setdefault(id(output), 0)

        return note

    def ahead(name: str) -> Any:
        def note(module: nn.Module, inputs: Any) -> None:  # noqa: ARG001 - torch's signature
            run.normed.append((name, inputs[0]))

        return note

    handles = [m.register_forward_hook(after(name)) for name, m in model.named_modules() if isinstance(m, Layer)]
    handles += [m.register_forward_pre_hook(ahead(name)) for name, m in model.named_modules() if isinstance(m, Norm)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pairs(model: nn.Module, run: _Run, outputs: list[Tensor]) -> list[tuple[str, str]]:
    """(layer, norm) where the norm's input is the layer's output and nobody else's, and both ran once."""
    owners: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    ran = [name for name, _ in run.made] + [name for name, _ in run.normed]
    returned = {id(leaf) for leaf in outputs}
    pairs = []
    for norm, read in run.normed:
        layer = next((name for name, made in run.made if made is read), None)
        if layer is None or ran.count(layer) > 1 or ran.count(norm) > 1:
            continue
        if run.read[id(read)] != 1 or id(read) in returned:
            continue
        module = _module(model, layer, Layer)
        channels_second = read.dim() == module.weight.dim()  # a linear layer over a sequence has its norm over steps
        shared = any(owners[id(parameter)] > 1 for parameter in module.parameters(recurse=False))
        if channels_second and not shared and _module(model, norm, Norm).running_mean is not None:
            pairs.append((layer, norm))
    return pairs


def _merge(layer: Any, norm: Any) -> None:
    """Gives a layer the parameters of layer and norm together; computed in float64."""
    exact = {name: t.to(torch.float64) for name, t in norm.state_dict().items() if t.is_floating_point()}
    scale = exact.get("weight", torch.ones_like(exact["running_mean"])) / (exact["running_var"] + norm.eps).sqrt()
    weight, kind = layer.weight, layer.weight.dtype
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.to(torch.float64)
    shifted = (bias - exact["running_mean"]) * scale + exact.get("bias", torch.zeros_like(scale))
    rows = scale.reshape(-1, *[1] * (weight.dim() - 1))
    layer.weight = nn.Parameter((weight.to(torch.float64) * rows).to(kind), requires_grad=weight.requires_grad)
    layer.bias = nn.Parameter(shifted.to(kind), requires_grad=weight.requires_grad)


def _difference(before: list[Tensor], after: list[Tensor]) -> float:
    """The largest change of any output tensor, relative to its largest value."""
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        if old.is_floating_point() and old.numel():
            size = max(float(old.abs().max()), torch.finfo(old.dtype).tiny)
            worst = max(worst, float((new - old).abs().max()) / size)
    return worst

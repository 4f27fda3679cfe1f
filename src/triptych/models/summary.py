"""What a model is made of, layer by layer: output shape, parameters and multiply-adds of one sample."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from triptych.models.fusion_model import FusionModel
from triptych.structure import Features


@dataclass(frozen=True)
class Row:
    """One layer that holds weights."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: int


@torch.no_grad()
def summarize(model: FusionModel) -> list[Row]:
    """One row a weight layer, in the order of execution; multiply-adds (MACs) are those of one sample, norms left out."""
    rows: dict[str, Row] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.LSTM, nn.GRU)):
            hooks.append(module.register_forward_hook(partial(_note, rows, name)))
    training = model.training
    model.eval()
    try:
        model(example_inputs(model), None)
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)
    return list(rows.values())


def example_inputs(model: FusionModel, batch: int = 1) -> dict[str, Tensor]:
    """Inputs of the right shapes: zeros, and the first real id for text and categories."""
    inputs = {}
    for field, settings in model.config.inputs.items():
        features = Features(**settings["features"])
        ids = features.kind in {"text", "category"}
        inputs[field] = torch.full(
            (batch, *features.shape), 1 if ids else 0, dtype=torch.long if ids else torch.float32
        )
    return inputs


def _note(rows: dict[str, Row], name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
    """Add a call; a layer that is called again adds its multiply-adds, not its parameters."""
    row = _row(name, module, output)
    rows[name] = replace(row, macs=row.macs + rows[name].macs) if name in rows else row


def _row(name: str, module: nn.Module, output: Any) -> Row:
    tensor = output if isinstance(output, Tensor) else output[0]
    shape = tuple(tensor.shape[1:])
    parameters = sum(p.numel() for p in module.parameters())
    matrices = sum(p.numel() for p in module.parameters() if p.ndim > 1)
    if isinstance(module, nn.Embedding):
        macs = 0
    elif isinstance(module, (nn.Conv1d, nn.Conv2d)):
        macs = matrices * tensor[:, 0].numel()
    else:
        macs = matrices * (tensor.numel() // tensor.shape[-1])
    return Row(name, type(module).__name__, shape, parameters, macs)

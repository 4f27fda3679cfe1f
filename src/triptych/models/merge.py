"""Batches of one row joined where nothing is lost by it: larger products run faster."""

from collections.abc import Sequence

import torch
from torch import Tensor

from triptych.models.tiny_batch import ModelBatch


def merged(batches: Sequence[ModelBatch], rows: int) -> list[ModelBatch]:
    """Batches of one row each as batches of up to `rows`, where neighbours have equal shapes; others stay alone."""
    found: list[list[ModelBatch]] = []
    for batch in batches:
        last = found[-1] if found else []
        if last and len(last) < rows and _alike(last[0], batch):
            last.append(batch)
        else:
            found.append([batch])
    return [_joined(group) for group in found]


def _alike(one: ModelBatch, other: ModelBatch) -> bool:
    if one.inputs.keys() != other.inputs.keys():
        return False
    for name, value in one.inputs.items():
        mate = other.inputs[name]
        if not isinstance(value, Tensor):
            if value != mate:
                return False
        elif value.dim() == 0 or value.shape[0] != 1 or value.shape != mate.shape:
            return False
    return True


def _joined(group: Sequence[ModelBatch]) -> ModelBatch:
    if len(group) == 1:
        return group[0]
    first = group[0]
    inputs = {
        name: torch.cat([batch.inputs[name] for batch in group]) if isinstance(value, Tensor) else value
        for name, value in first.inputs.items()
    }
    tokens = None if first.tokens is None else torch.cat([b.tokens for b in group if b.tokens is not None])
    return ModelBatch(inputs, first.modality, tokens, first.names)

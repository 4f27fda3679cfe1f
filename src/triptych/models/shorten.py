"""Samples cut short where only the way that data takes through a model matters, and not what it comes to."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from triptych.models.tiny_batch import ModelBatch

KEPT = 8  # words at either end of a run of words: first ones and last ones may have a meaning of their own


def shortened(batch: ModelBatch) -> ModelBatch:
    """The batch without the middle of long runs of words; as it is where its inputs cannot be cut with certainty.

    Places of other modalities stay, and so does the order: what is left is a sample that the model might be given as well.
    """
    if batch.tokens is None or "text" not in batch.names:
        return batch
    shape = batch.tokens.shape
    at = _kept(((batch.tokens == batch.names.index("text")) | (batch.tokens < 0)).all(0)).nonzero()[:, 0]
    inputs = {}
    for name, value in batch.inputs.items():
        if isinstance(value, Tensor) and value.shape[-2:] == shape:
            inputs[name] = value[..., at]
        elif not isinstance(value, Tensor) or shape[1] in value.shape[1:]:  # a mask of another form, or who knows
            return batch
        else:
            inputs[name] = value
    return replace(batch, inputs=inputs, tokens=batch.tokens[:, at])


def _kept(words: Bool[Tensor, " tokens"]) -> Bool[Tensor, " tokens"]:
    """Everything but what is `KEPT` places or more from both ends of a run of words."""
    near = torch.nn.functional.max_pool1d((~words).float()[None], 2 * KEPT + 1, 1, KEPT)[0].bool()
    near[:KEPT] = True
    near[-KEPT:] = True
    return near

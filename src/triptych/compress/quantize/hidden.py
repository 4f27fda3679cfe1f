"""The vectors that a recurrent layer's weights are multiplied with.

The fused LSTM and GRU show their outputs only, so each layer and direction is run alone, as a one-layer network with
the same weights: its outputs are the hidden states h_1 .. h_T, and weight_hh met h_0 .. h_{T-1}.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from triptych.errors import InputError


def recurrent_inputs(
    module: nn.LSTM | nn.GRU,
    path: str,
    x: Float[Tensor, "*batch steps features"] | PackedSequence,
    state: Any = None,
) -> Iterator[tuple[str, Float[Tensor, "batch steps width"]]]:
    """Pairs (weight name within the module, what it was multiplied with), layer by layer; dropout between layers is
    left out.

    Args:
        module: the recurrent module.
        path: its name, for messages.
        x: its input, in the module's own layout.
        state: its initial state, if one was given.

    Raises:
        InputError: a packed sequence.
    """
    if isinstance(x, PackedSequence):
        raise InputError(
            f"{path} was given a packed sequence, which calibration cannot read.", "Pass padded sequences."
        )
    if x.dim() == 2:
        x = x[None] if module.batch_first else x[:, None]
    current = x if module.batch_first else x.transpose(0, 1)
    directions = 2 if module.bidirectional else 1
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            suffix = f"_l{layer}" + ("_reverse" if direction else "")
            yield f"weight_ih{suffix}", current
            first = _initial(module, state, layer * directions + direction, current)
            steps = current.flip(1) if direction else current
            hidden = _run_alone(module, suffix, steps, first)
            start = first[0] if isinstance(first, tuple) else first
            yield f"weight_hh{suffix}", torch.cat([start.transpose(0, 1), hidden[:, :-1]], dim=1)
            outputs.append(hidden.flip(1) if direction else hidden)
        current = torch.cat(outputs, dim=-1)


def _initial(module: nn.LSTM | nn.GRU, state: Any, index: int, x: Float[Tensor, "batch steps features"]) -> Any:
    """The state that one layer and direction starts from, each tensor [1, batch, width]."""
    width = getattr(module, "proj_size", 0) or module.hidden_size
    zeros = x.new_zeros(1, len(x), width)
    cell = x.new_zeros(1, len(x), module.hidden_size)
    if state is None:
        return (zeros, cell) if isinstance(module, nn.LSTM) else zeros
    parts = [
        part[index : index + 1].reshape(1, len(x), -1) for part in (state if isinstance(module, nn.LSTM) else (state,))
    ]
    return tuple(parts) if isinstance(module, nn.LSTM) else parts[0]


def _run_alone(
    module: nn.LSTM | nn.GRU, suffix: str, x: Float[Tensor, "batch steps features"], first: Any
) -> Float[Tensor, "batch steps width"]:
    """Hidden states of one layer in one direction."""
    width = {"proj_size": module.proj_size} if isinstance(module, nn.LSTM) else {}
    alone = type(module)(
        x.shape[2], module.hidden_size, bias=module.bias, batch_first=True, device=x.device, dtype=x.dtype, **width
    )
    for name in [name for name, _ in alone.named_parameters()]:
        getattr(alone, name).data = getattr(module, name.removesuffix("_l0") + suffix).detach()
    return alone(x, first)[0]

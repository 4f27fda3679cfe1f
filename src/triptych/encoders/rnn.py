"""Recurrent network: LSTM or GRU layers that read a sequence in one or both directions.

In words: in every layer one cell reads the steps forwards and, if bidirectional, another reads them backwards; their
states stand side by side as the layer's output. The last layer's states are averaged over the real steps, or the last
state of each direction is taken, and a linear layer gives the vector.

Shapes: audio "batch 1 mels frames" and series "batch 1 channels steps" are read frame by frame, image "batch channels
height width" row by row, text "batch tokens" (embedded) token by token; text is padded on the right. Layers and
directions are modules of their own, and sequences are reversed by an index rather than packed: a layer is a block to
the compressor, and every sample of a batch runs in one traced graph.

Source: Hochreiter and Schmidhuber, Long Short-Term Memory, Neural Computation 1997; Cho et al., Learning Phrase
Representations using RNN Encoder-Decoder, EMNLP 2014 (GRU); Schuster and Paliwal, Bidirectional Recurrent Neural
Networks, 1997; dropout between layers as in Zaremba et al., Recurrent Neural Network Regularization, 2014.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from triptych.encoders.masked import Masked, all_real, masked_mean, real_tokens
from triptych.registry import register
from triptych.structure import Encoded, Features, Member, Modality, Settings, Width, linear_rows

CELLS = {"lstm": nn.LSTM, "gru": nn.GRU}


def reverse(
    x: Float[Tensor, "batch steps width"], mask: Bool[Tensor, "batch steps"] | None
) -> Float[Tensor, "batch steps width"]:
    """The real steps last to first, the padding still behind them; done twice, it gives x again."""
    if mask is None:
        return x.flip(1)
    real, steps = mask.sum(dim=1, keepdim=True), x.shape[1]
    order = (real - 1 - torch.arange(steps, device=x.device)) % steps
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


class Layer(nn.Module):
    """One recurrent layer: a cell that reads forwards and perhaps one that reads backwards."""

    def __init__(self, inputs: int, config: "RNNEncoder.Config") -> None:
        super().__init__()
        cell = CELLS[config.cell]
        self.dropout = nn.Dropout(config.dropout)
        self.ahead = cell(inputs, config.hidden, batch_first=True)
        self.back = cell(inputs, config.hidden, batch_first=True) if config.bidirectional else None

    def forward(self, stream: Masked) -> Masked:
        """The states of all directions, side by side."""
        x, mask = self.dropout(stream.x), stream.mask
        ahead, _ = self.ahead(x)
        if self.back is None:
            return Masked(ahead, mask)
        back, _ = self.back(reverse(x, mask))
        return Masked(torch.cat([ahead, reverse(back, mask)], dim=-1), mask)


@register("encoder", "rnn")
class RNNEncoder(nn.Module):
    """LSTM or GRU for audio, image and text."""

    class Config(Settings):
        """`hidden` units a direction, `embedding` features a text token, `width` of the vector that is returned; of sound and series,
        `stack` frames are read as one step.
        """

        cell: Literal["lstm", "gru"] = "lstm"
        layers: PositiveInt = 2
        hidden: PositiveInt = 96
        bidirectional: bool = True
        pool: Literal["mean", "last"] = "mean"
        embedding: PositiveInt = 64
        stack: PositiveInt = 1
        width: PositiveInt = 128
        dropout: float = Field(0.0, ge=0, lt=1)

        @property
        def directions(self) -> int:
            """How many cells a layer has."""
            return 2 if self.bidirectional else 1

    kinds: ClassVar[frozenset[Modality]] = frozenset({"image", "audio", "series", "text"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        self.kind, self.pool, self.directions = features.kind, config.pool, config.directions
        self.stack = config.stack
        self.embed: nn.Embedding | None = None
        if features.kind == "text":
            self.embed = nn.Embedding(features.vocabulary, config.embedding, padding_idx=0)
            inputs = config.embedding
        else:
            channels, height, width = features.shape
            over_time = features.kind in ("audio", "series")
            inputs = channels * height * config.stack if over_time else channels * width
        outputs = config.hidden * config.directions
        self.layers = nn.ModuleList(Layer(outputs if i else inputs, config) for i in range(config.layers))
        self.out = nn.Linear(outputs, config.width)
        self.width = config.width

    def forward(
        self,
        x: Float[Tensor, "batch channels height width"] | Int[Tensor, "batch tokens"],
        mask: Bool[Tensor, "batch width"] | None = None,
    ) -> Encoded:
        """The pooled state, and the state at every step; of sound and series, `mask` says which frames are no padding."""
        stream = self._steps(x, mask)
        for layer in self.layers:
            stream = layer(stream)
        states, mask = stream
        pooled = masked_mean(states, mask) if self.pool == "mean" else self._last(states, mask)
        return Encoded(self.out(pooled), self.out(states), all_real(states) if mask is None else mask)

    def _steps(self, x: Tensor, mask: Tensor | None) -> Masked:
        """The features of every step: tokens of text, columns of a spectrogram, rows of a picture."""
        if self.embed is not None:
            return Masked(self.embed(x), real_tokens(x))
        if self.kind in ("audio", "series"):
            frames = x.flatten(1, 2).transpose(1, 2)
            missing = -frames.shape[1] % self.stack
            frames = F.pad(frames, (0, 0, 0, missing)).unflatten(1, (-1, self.stack)).flatten(2)
            return Masked(frames, mask if mask is None else F.pad(mask, (0, missing))[:, :: self.stack])
        return Masked(x.transpose(1, 2).flatten(2))

    def _last(
        self, states: Float[Tensor, "batch steps features"], mask: Bool[Tensor, "batch steps"] | None
    ) -> Float[Tensor, "batch features"]:
        """The state in which each direction ended: at the last real step, and at the first."""
        if self.directions == 1:
            return reverse(states, mask)[:, 0]
        ahead, back = states.chunk(2, dim=-1)
        return torch.cat([reverse(ahead, mask)[:, 0], back[:, 0]], dim=-1)

    def widths(self) -> list[Width]:
        """The features of a token, and the hidden units of each layer.

        Unit u of a layer is unit u of both its directions, for they stand side by side in what the next layer reads. A
        unit is made by its rows in every gate and read by the recurrent columns of its own cell as well as by the next
        layer.
        """
        found = []
        if self.embed is not None:
            cells = self._cells(0)
            readers = tuple(Member(f"{cell}.weight_ih_l0", 1) for cell in cells)
            found.append(Width("embed", self.embed.weight.shape[1], (Member("embed.weight", 1),), readers))
        for index in range(len(self.layers)):
            cells = self._cells(index)
            rows, units = self.get_parameter(f"{cells[0]}.weight_hh_l0").shape
            parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            producers = tuple(Member(f"{cell}.{part}", 0, repeat=rows // units) for cell in cells for part in parts)
            own = tuple(Member(f"{cell}.weight_hh_l0", 1) for cell in cells)
            ahead = [f"{cell}.weight_ih_l0" for cell in self._cells(index + 1)] or ["out.weight"]
            consumers = own + tuple(Member(parameter, 1, repeat=self.directions) for parameter in ahead)
            found.append(Width(f"layers.{index}.hidden", units, producers, consumers))
        return found

    def pooled(self) -> Width:
        """The features of the pooled vector."""
        return linear_rows("out", self.out)

    def droppable(self) -> list[str]:
        """None: a recurrent layer has no shortcut."""
        return []

    def _cells(self, index: int) -> list[str]:
        """The names of the cells of a layer; none behind the last layer."""
        if index == len(self.layers):
            return []
        return [f"layers.{index}.{direction}" for direction in ("ahead", "back")[: self.directions]]

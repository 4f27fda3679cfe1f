"""Transformer decoder, pre-norm: each token asks the tokens before it, then the memory, then a feed-forward network.

In words: x + self(norm(x)), x + cross(norm(x), memory), x + down(GELU(up(norm(x)))), layer after layer; a last norm and the logits.
A step keeps every layer's keys and values in caches of `length` places, so that no token is computed twice, and shapes stay fixed.

Shapes: memory "batch places width", ids "batch tokens" -> logits "batch tokens vocabulary".

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017; pre-norm from Xiong et al., On Layer Normalization in the Transformer
Architecture, ICML 2020.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from triptych.encoders.attention import Attention
from triptych.registry import register
from triptych.structure import Member, Settings, Width, prefixed

State = tuple[Tensor, ...]
Looked = tuple[Tensor, Tensor, Tensor]  # keys, values and where they may be looked at


class DecoderLayer(nn.Module):
    """One layer; what its attentions look at is given to it, so that whole texts and single steps share it."""

    def __init__(self, config: "TransformerDecoder.Config", width: int) -> None:
        super().__init__()
        self.attention_norm, self.cross_norm, self.feedforward_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention, self.cross = Attention(width, config.heads), Attention(width, config.heads)
        self.up = nn.Linear(width, config.feedforward)
        self.down = nn.Linear(config.feedforward, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, asking: Tensor, own: Looked, memory: Looked) -> Tensor:
        """The tokens after the layer; `asking` are they behind the first norm, whose keys and values are among `own`."""
        x = x + self.dropout(self.attention.look(asking, *own))
        x = x + self.dropout(self.cross.look(self.cross_norm(x), *memory))
        return x + self.dropout(self.down(functional.gelu(self.up(self.feedforward_norm(x)))))

    def widths(self) -> list[Width]:
        """The heads of both attentions, and the features between up and down."""
        rows = (Member("up.weight", 0), Member("up.bias", 0))
        features = Width("feedforward", self.up.weight.shape[0], rows, (Member("down.weight", 1),))
        heads = [*prefixed("attention", self.attention.widths()), *prefixed("cross", self.cross.widths())]
        return [*heads, features]


@register("decoder", "transformer")
class TransformerDecoder(nn.Module):
    """Layers of self-attention and cross-attention; as wide as the memory.

    Args:
        config: sizes.
        width: of the memory, and of the layers.
        vocabulary: ids that may be written.
        length: of the longest text.
    """

    class Config(Settings):
        """`heads` must divide the fusion's width."""

        heads: PositiveInt = 4
        layers: PositiveInt = 3
        feedforward: PositiveInt = 512
        dropout: float = Field(0.1, ge=0, lt=1)

    def __init__(self, config: Config, width: int, vocabulary: int, length: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(DecoderLayer(config, width) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocabulary)

    def start(self, memory: Float[Tensor, "batch places width"], mask: Bool[Tensor, "batch places"]) -> State:
        """The memory's mask, and for each layer the memory's keys and values and two empty caches."""
        state = [mask]
        for layer in self._ordered():
            keys, values = layer.cross.offer(memory)
            like = layer.attention.offer(memory[:, :1])  # the heads that pruning left
            empty = [
                one.new_zeros(1).expand(*one.shape[:2], self.positions.num_embeddings, one.shape[3]) for one in like
            ]
            state += [keys, values, *(cache.contiguous() for cache in empty)]
        return tuple(state)

    def step(
        self, ids: Int[Tensor, " batch"], place: Int[Tensor, " batch"], state: State
    ) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """The logits of the tokens that follow `ids`, which stand at `place` (from 0), and the state with these kept."""
        mask, *caches = state
        places = torch.arange(self.positions.num_embeddings, device=ids.device)
        here = (places == place.unsqueeze(1))[:, None, :, None]
        before = (places <= place.unsqueeze(1))[:, None, None, :]
        x = self.dropout(self.embed(ids) + self.positions(place)).unsqueeze(1)
        kept = [mask]
        for number, layer in enumerate(self._ordered()):
            keys, values, own_keys, own_values = caches[4 * number : 4 * number + 4]
            asking = layer.attention_norm(x)
            key, value = layer.attention.offer(asking)
            own_keys, own_values = torch.where(here, key, own_keys), torch.where(here, value, own_values)
            x = layer(x, asking, (own_keys, own_values, before), (keys, values, mask[:, None, None, :]))
            kept += [keys, values, own_keys, own_values]
        return self.output(self.norm(x)).squeeze(1), tuple(kept)

    def forward(
        self,
        memory: Float[Tensor, "batch places width"],
        mask: Bool[Tensor, "batch places"],
        ids: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch tokens vocabulary"]:
        """The logits after each token of whole texts."""
        places = torch.arange(ids.shape[1], device=ids.device)
        before = places <= places.unsqueeze(1)
        x = self.dropout(self.embed(ids) + self.positions(places))
        for layer in self._ordered():
            asking = layer.attention_norm(x)
            own = layer.attention.offer(asking)
            x = layer(x, asking, (*own, before), (*layer.cross.offer(memory), mask[:, None, None, :]))
        return self.output(self.norm(x))

    def widths(self) -> list[Width]:
        """The heads and feed-forward features of each layer."""
        named = ((f"layers.{number}", layer) for number, layer in enumerate(self._ordered()))
        return [width for name, layer in named for width in prefixed(name, layer.widths())]

    def droppable(self) -> list[str]:
        """None: a layer reads more than the tokens that it adds to."""
        return []

    def _ordered(self) -> Iterator[DecoderLayer]:
        return (layer for layer in self.layers if isinstance(layer, DecoderLayer))

"""Recurrent decoder with soft attention: Show, Attend and Tell.

In words: before every token each place i of the memory is scored against the state h, and their weighted mean is the context,

    e_i = w tanh(K m_i + Q h),   a = softmax(e),   c = sigmoid(b h) * sum_i a_i m_i,   h' = GRU([embed(y), c], h),

and the next token's logits are O tanh(embed(y) + H h' + C c). The first state is tanh(S mean(m)).

Shapes: memory "batch places width", ids "batch tokens" -> logits "batch tokens vocabulary".

Source: Xu et al., Show, Attend and Tell: Neural Image Caption Generation with Visual Attention, ICML 2015, sections 3.1.2 and 4.2
(a GRU in place of the LSTM, and a tanh before the output); Bahdanau et al., Neural Machine Translation by Jointly Learning to Align
and Translate, ICLR 2015.
"""

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from triptych.encoders.masked import masked_mean
from triptych.registry import register
from triptych.structure import Member, Settings, Width

State = tuple[Tensor, ...]


@register("decoder", "rnn")
class RNNDecoder(nn.Module):
    """A GRU that looks at the memory before every token.

    Args:
        config: sizes.
        width: of the memory.
        vocabulary: ids that may be written.
        length: not needed here; decoders share one constructor.
    """

    class Config(Settings):
        """`embedding` features of a token, `hidden` units of the cell, `attention` features in which places are scored."""

        embedding: PositiveInt = 256
        hidden: PositiveInt = 256
        attention: PositiveInt = 128
        dropout: float = Field(0.3, ge=0, lt=1)

    def __init__(self, config: Config, width: int, vocabulary: int, length: int) -> None:  # noqa: ARG002
        super().__init__()
        self.embed = nn.Embedding(vocabulary, config.embedding)
        self.first = nn.Linear(width, config.hidden)
        self.key = nn.Linear(width, config.attention)
        self.query = nn.Linear(config.hidden, config.attention, bias=False)
        self.score = nn.Linear(config.attention, 1, bias=False)
        self.gate = nn.Linear(config.hidden, 1)
        self.cell = nn.GRU(config.embedding + width, config.hidden, batch_first=True)
        self.from_state = nn.Linear(config.hidden, config.embedding)
        self.from_context = nn.Linear(width, config.embedding, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.embedding, vocabulary)

    def start(self, memory: Float[Tensor, "batch places width"], mask: Bool[Tensor, "batch places"]) -> State:
        """The first state, and of the memory what every step needs."""
        return self.first(masked_mean(memory, mask)).tanh(), memory, self.key(memory), mask

    def step(self, ids: Int[Tensor, " batch"], place: Int[Tensor, " batch"], state: State) -> tuple[Tensor, State]:  # noqa: ARG002 - one signature for every decoder
        """The logits of the tokens that follow `ids`, and the next state."""
        logits, hidden = self._follow(self.embed(ids), state)
        return logits, (hidden, *state[1:])

    def forward(
        self,
        memory: Float[Tensor, "batch places width"],
        mask: Bool[Tensor, "batch places"],
        ids: Int[Tensor, "batch tokens"],
    ) -> Float[Tensor, "batch tokens vocabulary"]:
        """The logits after each token of whole texts."""
        state = self.start(memory, mask)
        logits = []
        for embedded in self.embed(ids).unbind(1):
            now, hidden = self._follow(embedded, state)
            logits.append(now)
            state = (hidden, *state[1:])
        return torch.stack(logits, dim=1)

    def attention(
        self, hidden: Float[Tensor, "batch hidden"], keys: Float[Tensor, "batch places attention"], mask: Tensor
    ) -> Float[Tensor, "batch places"]:
        """How much each place is looked at."""
        scores = self.score((keys + self.query(hidden).unsqueeze(1)).tanh()).squeeze(-1)
        return scores.masked_fill(~mask, -1e9).softmax(-1)

    def _follow(self, embedded: Float[Tensor, "batch embedding"], state: State) -> tuple[Tensor, Tensor]:
        hidden, memory, keys, mask = state
        looked = (self.attention(hidden, keys, mask).unsqueeze(1) @ memory).squeeze(1)
        context = self.gate(hidden).sigmoid() * looked
        _, after = self.cell(torch.cat([embedded, context], dim=-1).unsqueeze(1), hidden.unsqueeze(0))
        hidden = after.squeeze(0)
        said = embedded + self.from_state(self.dropout(hidden)) + self.from_context(context)
        return self.output(self.dropout(said.tanh())), hidden

    def widths(self) -> list[Width]:
        """The units of the cell, and the features in which places are scored."""
        rows, units = self.get_parameter("cell.weight_hh_l0").shape
        parts = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        made = tuple(Member(f"cell.{part}", 0, repeat=rows // units) for part in parts)
        made += Member("first.weight", 0), Member("first.bias", 0)
        readers = ("cell.weight_hh_l0", "query.weight", "gate.weight", "from_state.weight")
        scored = Member("key.weight", 0), Member("key.bias", 0), Member("query.weight", 0)
        return [
            Width("hidden", units, made, tuple(Member(name, 1) for name in readers)),
            Width("attention", self.key.weight.shape[0], scored, (Member("score.weight", 1),)),
        ]

    def droppable(self) -> list[str]:
        """None: nothing here has a shortcut."""
        return []

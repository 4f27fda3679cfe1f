"""Two-layer perceptron for single cells: out(ReLU(first(x))).

Shapes: category "batch 1" of ids, looked up in an embedding; number "batch 1", through a linear layer. Both become
`hidden` features and then a vector of `width`, which is the only token.

Source: Guo and Berkhahn, Entity Embeddings of Categorical Variables, 2016, for the categories.
"""

from typing import ClassVar

from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor, nn

from triptych.encoders.masked import all_real
from triptych.registry import register
from triptych.structure import Encoded, Features, Member, Modality, Settings, Width, linear_rows


@register("encoder", "mlp")
class MLPEncoder(nn.Module):
    """Small perceptron for category and number columns."""

    class Config(Settings):
        """`hidden` features between the two layers, `width` of the vector that is returned."""

        hidden: PositiveInt = 32
        width: PositiveInt = 32

    kinds: ClassVar[frozenset[Modality]] = frozenset({"category", "number"})

    def __init__(self, config: Config, features: Features) -> None:
        super().__init__()
        self.category = features.kind == "category"
        self.first: nn.Embedding | nn.Linear
        if self.category:
            self.first = nn.Embedding(features.vocabulary, config.hidden)
        else:
            self.first = nn.Linear(features.shape[0], config.hidden)
        self.out = nn.Linear(config.hidden, config.width)
        self.width = config.width

    def forward(self, x: Float[Tensor, "batch 1"] | Int[Tensor, "batch 1"]) -> Encoded:
        """The cell's vector, once as the pooled vector and once as the only token."""
        hidden = self.first(x.squeeze(1) if self.category else x)
        pooled = self.out(hidden.relu())
        tokens = pooled.unsqueeze(1)
        return Encoded(pooled, tokens, all_real(tokens))

    def widths(self) -> list[Width]:
        """The hidden features."""
        readers = (Member("out.weight", 1),)
        if self.category:
            producers: tuple[Member, ...] = (Member("first.weight", 1),)
        else:
            producers = (Member("first.weight", 0), Member("first.bias", 0))
        return [Width("hidden", self.out.weight.shape[1], producers, readers)]

    def pooled(self) -> Width:
        """The features of the pooled vector."""
        return linear_rows("out", self.out)

    def droppable(self) -> list[str]:
        """None: nothing here has a shortcut."""
        return []

"""Multi-head attention with one linear layer each for queries, keys, values and output.

Separate layers, unlike `nn.MultiheadAttention`, show the compressor every weight, and let it remove heads one by one.

Source: Vaswani et al., Attention Is All You Need, NeurIPS 2017, equation 1 and section 3.2.2.
"""

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from triptych.errors import InputError
from triptych.structure import Member, Width


class Attention(nn.Module):
    """Every token asks all real tokens: softmax(q k' / sqrt(head_dim)) v in each head, then a linear layer over all
    heads.

    Args:
        width: of the tokens, in and out.
        heads: how many parts the width is cut into.

    Raises:
        InputError: `heads` does not divide `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise InputError(
                f"Attention of width {width} cannot be cut into {heads} equal heads.",
                "Choose a number of heads that divides the width.",
            )
        self.head_dim = width // heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch tokens width"]:
        """What each token gathered; keys where `mask` is False are not looked at."""
        return self.look(x, *self.offer(x), None if mask is None else mask[:, None, None, :])

    def offer(
        self, x: Float[Tensor, "batch tokens width"]
    ) -> tuple[Float[Tensor, "batch heads tokens head_dim"], Float[Tensor, "batch heads tokens head_dim"]]:
        """The keys and values of these tokens."""
        return self._split(self.k(x)), self._split(self.v(x))

    def look(
        self,
        x: Float[Tensor, "batch queries width"],
        k: Float[Tensor, "batch heads keys head_dim"],
        v: Float[Tensor, "batch heads keys head_dim"],
        allowed: Bool[Tensor, "... keys"] | None = None,
    ) -> Float[Tensor, "batch queries width"]:
        """What tokens gather from others' keys and values, where `allowed` (one mask for all, or one each) is True."""
        gathered = functional.scaled_dot_product_attention(self._split(self.q(x)), k, v, attn_mask=allowed)
        return self.out(gathered.transpose(1, 2).flatten(2))

    def weights(
        self, x: Float[Tensor, "batch tokens width"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch heads tokens tokens"]:
        """softmax(q k' / sqrt(head_dim)): how much each token takes from each, which `forward` computes without showing it."""
        scores = self._split(self.q(x)) @ self._split(self.k(x)).mT / self.head_dim**0.5
        return (scores if mask is None else scores.masked_fill(~mask[:, None, None, :], float("-inf"))).softmax(-1)

    def _split(self, x: Float[Tensor, "batch tokens features"]) -> Float[Tensor, "batch heads tokens head_dim"]:
        # The number of heads is read off the weights: pruning may have removed some.
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def widths(self) -> list[Width]:
        """The heads."""
        span = self.head_dim
        producers = tuple(Member(f"{part}.{side}", 0, span) for part in "qkv" for side in ("weight", "bias"))
        heads = self.q.weight.shape[0] // span
        return [Width("heads", heads, producers, (Member("out.weight", 1, span),))]

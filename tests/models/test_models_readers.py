"""Which layers alone read what a normalisation makes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from triptych.models.readers import readers


class Model(nn.Module):
    """A norm before two linear layers, and whatever else is done with its output."""

    def __init__(self, also: Callable[["Model", Tensor], Tensor]) -> None:
        super().__init__()
        self.before, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.one, self.two = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
        self.also = also

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        inner = self.norm(self.before(x))
        assert inner.shape[-1] == 4  # its form may be looked at
        answer = self.one(inner) + self.two(inner)
        return answer, self.also(self, inner)


@pytest.mark.parametrize(
    ("also", "alone"),
    [
        (lambda model, inner: torch.zeros(1), True),  # noqa: ARG005
        (lambda model, inner: inner, False),  # noqa: ARG005
        (lambda model, inner: inner + 1, False),  # noqa: ARG005
        (lambda model, inner: model.one(inner[:, :1]), False),
        (lambda model, inner: nn.functional.linear(inner, model.before.weight), False),
        (lambda model, inner: model.norm(torch.ones(2, 4)), False),  # noqa: ARG005
        (lambda model, inner: model.two(torch.ones(2, 4)), True),  # noqa: ARG005
    ],
)
def test_only_linear_layers_may_read(also: Callable[[Model, Tensor], Tensor], alone: bool) -> None:
    assert readers(Model(also), {"x": torch.randn(2, 3, 4)}) == ({"norm": ("one", "two")} if alone else {})

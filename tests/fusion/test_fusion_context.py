import pytest
import torch

from triptych.errors import InputError
from triptych.fusion.context import ContextFusion


def tokens(*counts):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, n, 6, generator=generator) for n in counts], [
        torch.ones(2, n, dtype=torch.bool) for n in counts
    ]


def test_alone_the_tokens_are_what_they_were():
    x, masks = tokens(5)
    memory = ContextFusion(ContextFusion.Config(), 1, 6)(x, masks)
    assert torch.equal(memory.tokens, x[0])
    assert torch.equal(memory.mask, masks[0])


def test_every_place_is_told_what_the_others_say():
    fusion = ContextFusion(ContextFusion.Config(onto=1), 3, 6)
    x, masks = tokens(4, 5, 2)
    masks[0][0, 2:] = False
    memory = fusion(x, masks)
    for row in range(2):
        others = [x[0][row, masks[0][row]].mean(0), x[2][row].mean(0)]
        expected = x[1][row] + fusion.context(sum(others) / 2)
        assert torch.allclose(memory.tokens[row], expected, atol=1e-6)


def test_an_input_that_is_not_there():
    with pytest.raises(InputError, match=r"the tokens of input 2, but there are 2\. Choose fusion\.onto from 0 to 1"):
        ContextFusion(ContextFusion.Config(onto=2), 2, 6)

"""The transformer encoder and its attention against torch's own multi-head attention."""

import pytest
import torch
from torch import nn

from triptych.encoders.attention import Attention
from triptych.encoders.transformer import TransformerEncoder
from triptych.errors import InputError
from triptych.structure import Features


def test_attention_equals_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q.weight, ours.k.weight, ours.v.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q.bias, ours.k.bias, ours.v.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    x = torch.randn(2, 5, 12)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    expected, _ = theirs(x, x, x, key_padding_mask=~mask)
    torch.testing.assert_close(ours(x, mask), expected)
    expected, _ = theirs(x, x, x)
    torch.testing.assert_close(ours(x), expected)


def test_a_dropped_layer_is_one_that_adds_nothing():
    torch.manual_seed(0)
    config = TransformerEncoder.Config(width=8, heads=2, layers=3, feedforward=6)
    encoder = TransformerEncoder(config, Features(kind="text", shape=(6,), vocabulary=9)).eval()
    ids = torch.tensor([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]])
    assert encoder.droppable() == ["layers.0", "layers.1", "layers.2"]
    for linear in (encoder.layers[1].attention.out, encoder.layers[1].down):
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    silent = encoder(ids)
    encoder.set_submodule("layers.1", nn.Identity())
    assert torch.equal(encoder(ids).pooled, silent.pooled)
    assert encoder.droppable() == ["layers.0", "layers.2"]


def test_the_order_of_tokens_matters():
    encoder = TransformerEncoder(TransformerEncoder.Config(layers=1), Features(kind="text", shape=(4,), vocabulary=9))
    ids = torch.tensor([[1, 2, 3, 4]])
    assert not torch.allclose(encoder.eval()(ids).pooled, encoder(ids.flip(1)).pooled)


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"Attention of width 10 cannot be cut into 4 equal heads. Choose"):
        Attention(10, 4)


@pytest.mark.parametrize(("kind", "shape", "unit"), [("image", (3, 12, 7), "pixels"), ("audio", (1, 12, 7), "frames")])
def test_a_patch_must_fit(kind, shape, unit):
    features = Features(kind=kind, shape=shape)
    with pytest.raises(
        InputError, match=rf"A patch of 8 {unit} does not fit {kind} features of 12 x 7. Choose a smaller"
    ):
        TransformerEncoder(TransformerEncoder.Config(patch=8), features)


def test_patches_of_sound_hold_all_mels():
    encoder = TransformerEncoder(TransformerEncoder.Config(patch=8), Features(kind="audio", shape=(1, 12, 35)))
    assert encoder(torch.randn(2, 1, 12, 35)).tokens.shape[1] == 35 // 8

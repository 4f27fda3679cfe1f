"""The transformer encoder and its attention against torch's own multi-head attention."""

import pytest
import torch
from torch import nn
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from triptych.encoders.attention import Attention
from triptych.encoders.stem import Stem
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


def test_convolutions_over_time_are_those_of_whisper():
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, num_mel_bins=10, max_source_positions=7
    )
    theirs, ours = WhisperEncoder(config), Stem(Features(kind="audio", shape=(1, 10, 13)), (1, 2), 16)
    for convolution, their in zip(ours.convolutions, (theirs.conv1, theirs.conv2), strict=True):
        convolution.weight.data.copy_(their.weight.view_as(convolution.weight))
        convolution.bias.data.copy_(their.bias)
    x = torch.randn(2, 10, 13)
    gelu = torch.nn.functional.gelu
    assert ours.tokens == 7
    torch.testing.assert_close(ours(x.unsqueeze(1)).squeeze(2), gelu(theirs.conv2(gelu(theirs.conv1(x)))))


def test_a_token_of_convolutions_is_real_where_its_first_frame_is():
    features = Features(kind="series", shape=(1, 3, 11))
    encoder = TransformerEncoder(TransformerEncoder.Config(strides=(2, 2)), features)
    mask = torch.arange(11) < torch.tensor([[11], [5], [4]])
    assert encoder(torch.randn(3, 1, 3, 11), mask).mask.tolist() == [
        [True] * 3,
        [True, True, False],
        [True, False, False],
    ]


def test_convolutions_over_time_need_time():
    with pytest.raises(InputError, match=r"`strides` are over time, which image features do not have\. Use `patch`"):
        TransformerEncoder(TransformerEncoder.Config(strides=(2,)), Features(kind="image", shape=(3, 8, 8)))

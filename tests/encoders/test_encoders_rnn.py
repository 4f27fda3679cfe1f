"""The recurrent encoder against torch's own bidirectional layers and packed sequences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from triptych.encoders.rnn import RNNEncoder, reverse
from triptych.structure import Features

TEXT = Features(kind="text", shape=(9,), vocabulary=20)


def torch_twin(encoder, cell, hidden, layers):
    """nn.LSTM or nn.GRU with the weights of our layers."""
    twin = cell(encoder.embed.weight.shape[1], hidden, layers, batch_first=True, bidirectional=True)
    for index, layer in enumerate(encoder.layers):
        for suffix, ours in (("", layer.ahead), ("_reverse", layer.back)):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(twin, f"{name}_l{index}{suffix}").data.copy_(getattr(ours, f"{name}_l0"))
    return twin


@pytest.mark.parametrize("pool", ["mean", "last"])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_equals_packed_sequences(name, pool):
    torch.manual_seed(0)
    config = RNNEncoder.Config(cell=name, layers=2, hidden=5, width=4, embedding=6, pool=pool)
    encoder = RNNEncoder(config, TEXT).eval()
    lengths = torch.tensor([9, 1, 4])
    ids = torch.randint(1, 20, (3, 9))
    for row, length in enumerate(lengths):
        ids[row, length:] = 0

    twin = torch_twin(encoder, {"lstm": nn.LSTM, "gru": nn.GRU}[name], hidden=5, layers=2)
    packed = pack_padded_sequence(encoder.embed(ids), lengths, batch_first=True, enforce_sorted=False)
    packed_states, last = twin(packed)
    states, _ = pad_packed_sequence(packed_states, batch_first=True)
    last = last[0] if name == "lstm" else last
    pooled = torch.cat([last[-2], last[-1]], dim=1) if pool == "last" else states.sum(dim=1) / lengths.unsqueeze(1)

    encoded = encoder(ids)
    torch.testing.assert_close(encoded.pooled, encoder.out(pooled))
    mask = encoded.mask
    torch.testing.assert_close(encoded.tokens[mask], encoder.out(states)[mask])
    assert mask.sum(dim=1).tolist() == lengths.tolist()


def test_reversing_twice_changes_nothing():
    x = torch.arange(10.0).reshape(2, 5, 1)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    assert reverse(x, mask)[1, :3, 0].tolist() == [7, 6, 5]
    assert torch.equal(reverse(reverse(x, mask), mask), x)
    assert torch.equal(reverse(x, None), x.flip(1))


def test_both_directions_of_a_layer_shrink_together():
    encoder = RNNEncoder(RNNEncoder.Config(layers=2, hidden=5), TEXT)
    hidden = {width.name: width for width in encoder.widths()}["layers.0.hidden"]
    consumers = {member.parameter: member.repeat for member in hidden.consumers}
    assert consumers == {
        "layers.0.ahead.weight_hh_l0": 1,
        "layers.0.back.weight_hh_l0": 1,
        "layers.1.ahead.weight_ih_l0": 2,
        "layers.1.back.weight_ih_l0": 2,
    }
    assert {member.repeat for member in hidden.producers} == {4}


def test_sound_is_read_by_frames_and_pictures_by_rows():
    config = RNNEncoder.Config(layers=1, hidden=5)
    sound = RNNEncoder(config, Features(kind="audio", shape=(1, 12, 7)))
    picture = RNNEncoder(config, Features(kind="image", shape=(3, 12, 7)))
    assert sound(torch.randn(2, 1, 12, 7)).tokens.shape[1] == 7
    assert picture(torch.randn(2, 3, 12, 7)).tokens.shape[1] == 12
    assert sound.layers[0].ahead.input_size == 12
    assert picture.layers[0].ahead.input_size == 3 * 7

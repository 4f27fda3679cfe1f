"""Attention that is known in advance must be seen."""

import pytest
import torch

from evaluate.explain.known import ENCODERS, build, draw
from triptych.encoders.attention import Attention
from triptych.evaluate.explain.attention import fusion_attention, rollout
from triptych.evaluate.explain.subject import Subject


def test_the_weights_are_those_that_the_attention_uses():
    torch.manual_seed(0)
    attention = Attention(12, 3)
    x, mask = torch.randn(2, 5, 12), torch.tensor([[True] * 5, [True, True, False, False, False]])
    for given in (mask, None):
        weights = attention.weights(x, given)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 5))
        values = attention.v(x).unflatten(-1, (3, 4)).transpose(1, 2)
        torch.testing.assert_close(attention.out((weights @ values).transpose(1, 2).flatten(2)), attention(x, given))
    assert not attention.weights(x, mask)[1, :, :, 2:].any()


def asks_for(attention, direction):
    """Every token asks for the tokens that point in one direction, and for them alone."""
    with torch.no_grad():
        for layer in (attention.q, attention.k):
            layer.weight.zero_()
            layer.bias.zero_()
        attention.q.bias.fill_(1)
        attention.k.weight.copy_(50 * direction.expand_as(attention.k.weight))


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_fusion_that_asks_one_modality_is_seen_to(wanted):
    torch.manual_seed(0)
    fusion = {"name": "attention", "width": 24, "heads": 3}
    batch, _, _ = draw(4, seed=0)
    model = build(*ENCODERS["cnn"], fusion=fusion)
    vectors = Subject.of(model, batch).vectors
    direction = torch.linalg.pinv(vectors.flatten(0, 1)) @ (torch.arange(3) == wanted).float().repeat(4)
    asks_for(model.fusion.attention, direction)
    asked = fusion_attention(Subject.of(model, batch))
    assert asked.shape == (4, 3, 3)
    assert (asked[:, :, wanted] > 0.9).all()
    absent = fusion_attention(Subject.of(model, batch.without(model.fields[wanted])))
    assert not absent[:, :, wanted].any()


def test_a_fusion_without_attention_has_none():
    batch, _, _ = draw(2, seed=0)
    subject = Subject.of(build(*ENCODERS["cnn"]), batch)
    assert fusion_attention(subject) is None
    assert rollout(subject, "picture") is None
    assert rollout(subject, "text") is None


def test_an_encoder_that_asks_for_one_word_is_seen_to():
    torch.manual_seed(0)
    batch, _, words = draw(8, seed=0)
    model = build(*ENCODERS["transformer"])
    encoder = model.encoders["text"]
    (layer,) = encoder.layers
    key = torch.randn(24)
    with torch.no_grad():
        encoder.positions.weight.zero_()
        encoder.embed.weight.copy_(torch.randn_like(encoder.embed.weight))
        encoder.embed.weight[2:4] = key
    asks_for(layer.attention, layer.attention_norm(key) / 24)
    flow = rollout(Subject.of(model, batch), "text")
    assert (flow.argmax(1) == words).all()
    assert (flow.amax(1) > 0.5).all()
    assert not flow[batch.inputs["text"] == 0].any()

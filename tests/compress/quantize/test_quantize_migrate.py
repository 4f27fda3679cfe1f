"""Folded scales leave the function as it was, whatever kind of producer makes the input."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from triptych.compress.quantize import gptq, migrate
from triptych.compress.quantize.grid import Grid, output_error
from triptych.errors import InputError


def lively(module):
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.3 + 0.1
    return module


PRODUCERS = {
    "LayerNorm": lambda: nn.LayerNorm(6),
    "LayerNorm without bias": lambda: nn.LayerNorm(6, bias=False),
    "RMSNorm": lambda: nn.RMSNorm(6),
    "Llama's": lambda: LlamaRMSNorm(6),
    "Gemma's": lambda: GemmaRMSNorm(6),
    "Linear": lambda: nn.Linear(5, 6),
    "Linear without bias": lambda: nn.Linear(5, 6, bias=False),
}


@pytest.mark.parametrize("name", PRODUCERS)
def test_the_function_stays(name):
    producer = lively(PRODUCERS[name]())
    consumers = [lively(nn.Linear(6, 3)), lively(nn.Linear(6, 4, bias=False))]
    x = torch.randn(2, 7, 5 if "Linear" in name else 6, generator=torch.Generator().manual_seed(1))
    before = [c(producer(x)) for c in consumers]
    inner = producer(x)
    s = torch.tensor([0.1, 1.0, 3.0, 20.0, 0.5, 1.0])
    migrate.fold(producer, consumers, s)
    torch.testing.assert_close(producer(x), inner / s, rtol=1e-4, atol=1e-5)
    for consumer, expected in zip(consumers, before, strict=True):
        torch.testing.assert_close(consumer(producer(x)), expected, rtol=1e-4, atol=1e-5)


def test_low_precision_is_folded_by_what_float64_shows():
    producer, consumer = lively(GemmaRMSNorm(6)).to(torch.bfloat16), lively(nn.Linear(6, 3)).to(torch.bfloat16)
    weight = consumer.weight.detach().clone()
    migrate.fold(producer, [consumer], torch.full((6,), 4.0))
    assert torch.equal(consumer.weight, weight * 4)


class Squared(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((6,), 1.5))

    def forward(self, x):
        return x * self.weight**2


def test_what_would_change_is_refused_and_left():
    producer, consumer = Squared(), lively(nn.Linear(6, 3))
    state = [copy.deepcopy(module.state_dict()) for module in (producer, consumer)]
    with pytest.raises(InputError, match="into this Squared changes what its consumers compute"):
        migrate.fold(producer, [consumer], torch.full((6,), 2.0))
    for module, kept in zip((producer, consumer), state, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def test_wrong_pairs_are_refused():
    consumer = nn.Linear(6, 3)
    for producer, s, message in (
        (nn.LayerNorm(6, elementwise_affine=False), torch.ones(6), "No scale can be folded into a LayerNorm"),
        (nn.ReLU(), torch.ones(6), "No scale can be folded into a ReLU"),
        (nn.LayerNorm(5), torch.ones(6), "Scales of 6 channels do not fit a layer of 5"),
        (nn.LayerNorm(6), torch.zeros(6), "must be finite and above zero"),
    ):
        with pytest.raises(InputError, match=message):
            migrate.fold(producer, [consumer], s)
    with pytest.raises(InputError, match="Scales of 5 channels do not fit a layer of 6"):
        migrate.awq_scales([torch.ones(2, 6)], torch.eye(5), Grid(bits=4))


def outliers():
    """A layer whose inputs have two large channels."""
    generator = torch.Generator().manual_seed(0)
    producer, consumer = nn.LayerNorm(48), nn.Linear(48, 64)
    consumer.weight.data = torch.randn(64, 48, generator=generator)
    x = torch.randn(600, 48, generator=generator)
    before = consumer(producer(x))
    s = migrate.injected_outliers(producer, [consumer], [3, 40], 20.0)
    assert s[3] == s[40] == 0.05
    assert s.sum() == pytest.approx(46.1)
    torch.testing.assert_close(consumer(producer(x)), before, rtol=1e-4, atol=1e-4)
    return producer, consumer, producer(x).detach()


def test_awq_undoes_planted_outliers():
    _, consumer, x = outliers()
    moment, grid, W = x.T @ x / len(x), Grid(bits=3, group=16), consumer.weight.detach()
    s = migrate.awq_scales([W], moment, grid, mean_abs=x.abs().mean(0))
    assert s[3] > 4 * s[4]
    plain = output_error(W, gptq.quantize(W, moment, grid).dequantize(), moment)
    moved = gptq.quantize(W * s, moment / (s[:, None] * s), grid).dequantize() / s
    assert output_error(W, moved, moment) < 0.7 * plain


def test_smoothquant_evens_inputs_and_weights():
    _, consumer, x = outliers()
    s = migrate.smoothquant_scales([consumer.weight], x.abs().amax(0))
    largest = (x / s).abs().amax(0)
    torch.testing.assert_close(largest, (consumer.weight * s).abs().amax(0))
    assert largest.max() / largest.median() < 0.4 * (x.abs().amax(0).max() / x.abs().amax(0).median())


def test_channels_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="There is no channel 6 among 6"):
        migrate.injected_outliers(nn.LayerNorm(6), [nn.Linear(6, 2)], [1, 6], 5.0)

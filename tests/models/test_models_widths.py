"""What an encoder pools may shrink with the projector that reads it."""

import copy

import pytest
import torch

from triptych.compress.prune.width import shrink
from triptych.data.samples import Samples


@pytest.fixture
def model(tiny_trained):
    return copy.deepcopy(tiny_trained.loaded.model)


@pytest.fixture
def batch(tiny_trained):
    loaded = tiny_trained.loaded
    return Samples(tiny_trained.splits.table("test"), loaded.processor, tiny_trained.splits.schema).batch(range(16))


def pooled(model):
    return {w.name: w for w in model.widths() if any("projectors." in m.parameter for m in w.consumers)}


def test_every_pooled_vector_is_read_by_its_projector(model):
    assert set(pooled(model)) == {
        "encoders.picture.stages.1.0.stream",
        "encoders.sound.stages.1.0.stream",
        "encoders.word.out",
    }


@pytest.mark.parametrize("place", [0, 1, 2])
def test_removing_pooled_units_equals_not_reading_them(model, batch, place):
    width = list(pooled(model).values())[place]
    blind = copy.deepcopy(model)
    for member in width.consumers:
        with torch.no_grad():
            blind.get_parameter(member.parameter).index_fill_(member.axis, torch.arange(1, width.units, 2), 0.0)
    expected = blind(batch.inputs, batch.presence).logits
    assert not torch.allclose(model(batch.inputs, batch.presence).logits, expected)
    shrink(model, width, torch.arange(0, width.units, 2))
    torch.testing.assert_close(model(batch.inputs, batch.presence).logits, expected, rtol=1e-5, atol=1e-5)

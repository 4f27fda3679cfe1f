"""The convolutional encoder: which channels belong together, and what a fold of its norms leaves."""

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from triptych.encoders.cnn import CNNEncoder, ConvNorm
from triptych.structure import Features

IMAGE = Features(kind="image", shape=(3, 16, 16))


def residual():
    torch.manual_seed(0)
    return CNNEncoder(CNNEncoder.Config(widths=(4, 6), blocks=(2, 2)), IMAGE).eval()


def test_all_that_writes_into_a_stage_shrinks_together():
    stream = next(width for width in residual().widths() if width.name == "stages.0.0.stream")
    made_by = {member.parameter.rsplit(".", 2)[0] for member in stream.producers}
    assert made_by == {"stages.0.0.second", "stages.0.0.shortcut", "stages.0.1.second"}
    assert {member.parameter for member in stream.consumers} == {
        "stages.0.1.first.conv.weight",
        "stages.1.0.first.conv.weight",
        "stages.1.0.shortcut.conv.weight",
    }


def test_the_last_stream_keeps_its_width():
    encoder = residual()
    assert [width.name for width in encoder.widths() if width.name.endswith(".stream")] == [
        "stem.stream",
        "stages.0.0.stream",
    ]
    assert encoder.width == 6


def test_without_shortcuts_no_block_is_droppable():
    config = CNNEncoder.Config(widths=(4, 6), blocks=(2, 2), residual=False)
    encoder = CNNEncoder(config, IMAGE)
    assert encoder.droppable() == []
    assert sum(width.name.endswith(".stream") for width in encoder.widths()) == 4
    assert residual().droppable() == ["stages.0.1", "stages.1.1"]


def test_a_dropped_block_is_one_whose_branch_is_zero():
    encoder = residual()
    x = torch.randn(2, 3, 16, 16)
    norm = encoder.get_submodule("stages.0.1.second.norm")
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)
    silent = encoder(x).pooled
    encoder.set_submodule("stages.0.1", nn.Identity())
    assert torch.equal(encoder(x).pooled, silent)


def test_folding_the_norms_keeps_the_outputs_and_the_widths_hold(prune_both_ways):
    encoder = residual()
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        encoder.train()(x)
    before = encoder.eval()(x).pooled
    for module in encoder.modules():
        if isinstance(module, ConvNorm):
            module.conv, module.norm = fuse_conv_bn_eval(module.conv, module.norm), nn.Identity()
    assert torch.allclose(encoder(x).pooled, before, atol=1e-5)
    for width in encoder.widths():
        assert not any("norm" in member.parameter for member in width.producers)
        pruned, blind = prune_both_ways(encoder, width)
        assert torch.allclose(pruned(x).pooled, blind(x).pooled, atol=1e-5)


def test_the_grid_is_halved_by_the_stem_and_by_each_stage():
    assert residual()(torch.randn(1, 3, 40, 24)).tokens.shape == (1, 5 * 3, 6)


def test_stages_without_blocks_are_refused():
    with pytest.raises(ValueError, match="3 widths and 2 blocks: give both one entry a stage"):
        CNNEncoder.Config(widths=(4, 6, 8), blocks=(2, 2))

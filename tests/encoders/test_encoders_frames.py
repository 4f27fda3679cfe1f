"""The encoder of clips against its two encoders called frame by frame, and what it does with padding."""

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTModel

from triptych.encoders.cnn import CNNEncoder
from triptych.encoders.frames import FramesEncoder
from triptych.encoders.transformer import TransformerEncoder
from triptych.errors import InputError
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.structure import Features

VIDEO = Features(kind="video", shape=(5, 3, 16, 16))
FRAME = {"name": "cnn", "widths": (6, 8), "blocks": (1, 1)}
GRU = {"cell": "gru", "layers": 1, "hidden": 6, "width": 9, "pool": "last", "bidirectional": False}
ATTENTION = {"name": "transformer", "width": 12, "heads": 3, "layers": 2, "feedforward": 10}


def encoder(features: Features = VIDEO, **settings) -> FramesEncoder:
    torch.manual_seed(0)
    return FramesEncoder(
        FramesEncoder.Config(**({"frame": FRAME, "time": GRU, "width": 7} | settings)), features
    ).eval()


def clips(*lengths: int) -> torch.Tensor:
    x = torch.randn(len(lengths), *VIDEO.shape, generator=torch.Generator().manual_seed(1))
    for row, length in enumerate(lengths):
        x[row, length:] = 0
    return x


def test_equals_a_cell_that_reads_frame_by_frame():
    ours, x = encoder(), clips(5, 2, 1)
    cell = nn.GRUCell(7, 6)
    for name, parameter in cell.named_parameters():
        parameter.data.copy_(getattr(ours.time.layers[0].ahead, f"{name}_l0"))
    expected = []
    for clip, length in zip(x, (5, 2, 1), strict=True):
        state = torch.zeros(1, 6)
        for frame in clip[:length]:
            state = cell(ours.project(ours.frame(frame[None]).pooled), state)
        expected.append(ours.time.out(state))
    encoded = ours(x)
    torch.testing.assert_close(encoded.pooled, torch.cat(expected))
    assert encoded.mask.sum(1).tolist() == [5, 2, 1]
    assert encoded.tokens.shape == (3, 5, 9)


@pytest.mark.parametrize("time", [GRU, {"bidirectional": True, "hidden": 6, "width": 9}, ATTENTION])
def test_frames_behind_the_end_change_nothing(time):
    ours = encoder(time=time)
    for length in (1, 3):
        x = clips(length)
        torch.testing.assert_close(ours(x).pooled, ours(x[:, :length]).pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("time", [GRU, ATTENTION])
def test_the_order_of_the_frames_matters_and_no_frame_at_all_is_finite(time):
    ours, x = encoder(time=time), clips(5)
    assert (ours(x).pooled - ours(x.flip(1)).pooled).abs().max() > 1e-3
    assert ours(torch.zeros_like(x)).pooled.isfinite().all()


def test_frames_that_are_read_together_are_the_channels_of_one_picture():
    ours, x = encoder(together=2), clips(5, 3)
    pairs = torch.stack([torch.cat([x[:, t - 1], x[:, t]], dim=1) for t in range(1, 5)], dim=1)
    one = encoder(Features(kind="video", shape=(4, 6, 16, 16)))
    one.load_state_dict(ours.state_dict())
    pairs[1, 2:] = 0  # the pair of the last frame and the padding behind it is padding
    torch.testing.assert_close(ours(x).pooled, one(pairs).pooled)
    assert ours(x).mask.sum(1).tolist() == [4, 2]
    assert encoder(Features(kind="video", shape=(1, 3, 16, 16)), together=2)(x[:, :1]).tokens.shape == (2, 1, 9)


def test_patches_of_frames_are_real_where_their_first_frame_is():
    pairs = TransformerEncoder.Config(width=12, heads=3, layers=1, feedforward=10, patch=2)
    sound = TransformerEncoder(pairs, Features(kind="audio", shape=(1, 7, 5)))
    mask = torch.tensor([[True, True, True, False, False], [True, False, False, False, False]])
    assert sound(torch.randn(2, 1, 7, 5), mask).mask.tolist() == [[True, True], [True, False]]


def test_the_defaults_are_a_small_residual_network_and_a_gated_recurrent_unit():
    ours = FramesEncoder(FramesEncoder.Config(), VIDEO)
    assert isinstance(ours.frame, CNNEncoder)
    assert isinstance(ours.time.layers[0].ahead, nn.GRU)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frame": {"name": "mlp"}}, "'mlp' does not read images"),
        ({"time": {"name": "cnn"}}, "'cnn' does not read frames over time. Use rnn or transformer"),
        ({"frame": {"widths": (6,), "blocks": (1, 1)}}, "1 widths and 2 blocks"),
        ({"time": {"hiden": 6}}, "hiden: Extra inputs are not permitted"),
    ],
)
def test_what_does_not_fit_is_named(settings, message):
    with pytest.raises(InputError, match=message):
        encoder(**settings)


def test_a_pretrained_backbone_is_not_needed_again(tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    ViTModel(ViTConfig(**sizes, image_size=16, patch_size=8)).save_pretrained(tmp_path / "vit")
    settings = {"name": "frames", "frame": {"name": "pretrained", "path": str(tmp_path / "vit")}, "time": GRU}
    inputs = {"film": {"features": VIDEO.model_dump(), "encoder": settings}}
    model = FusionModel(
        FusionConfig(inputs=inputs, fusion={"name": "mean", "width": 8}, task={"name": "regress"})
    ).eval()
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "vit" / "config.json").unlink()
    again = FusionModel.from_pretrained(tmp_path / "model").eval()
    torch.testing.assert_close(again({"film": clips(5)}).logits, model({"film": clips(5)}).logits)

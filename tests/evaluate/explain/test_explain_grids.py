"""Where each kind of encoder still knows places."""

import pytest
import torch
from transformers import ViTConfig, ViTModel

from evaluate.explain.known import ENCODERS, SIDE, build, draw
from triptych.data.batch import Batch
from triptych.evaluate.explain.attention import rollout
from triptych.evaluate.explain.gradcam import gradcam
from triptych.evaluate.explain.grids import Grid, find_grid, tapped
from triptych.evaluate.explain.subject import Subject
from triptych.models.fusion_model import FusionConfig, FusionModel

TEXT = {"name": "rnn", "hidden": 4}


def subject_of(picture):
    torch.manual_seed(0)
    batch, _, _ = draw(3, seed=0)
    return Subject.of(build(picture, TEXT), batch)


@pytest.mark.parametrize(
    ("picture", "grid"),
    [
        # 32, 16, 8, 4, 2: the last with 25 cells
        ({"name": "cnn", "widths": [4, 4, 6, 6], "blocks": [1, 1, 1, 1], "stem_stride": 1}, Grid("stages.1", 8, 8)),
        # none has 25: the one with most
        ({"name": "cnn", "widths": [4, 6], "blocks": [1, 1], "stem_stride": 8}, Grid("stem", 4, 4)),
        # what the last layer with attention reads
        ({"name": "transformer", "width": 8, "heads": 2, "layers": 2, "patch": 4}, Grid("layers.0", 8, 8)),
        ({"name": "rbf", "dim": 4, "units": 5, "width": 6, "patch": 5}, Grid("out", 6, 6)),
        ({"name": "rnn", "hidden": 4, "layers": 1}, Grid("layers.0", SIDE, 1)),
    ],
    ids=["cnn", "coarse cnn", "transformer", "rbf", "rnn"],
)
def test_the_grid_of(picture, grid):
    subject = subject_of(picture)
    assert find_grid(subject, "picture") == grid
    assert gradcam(subject, "picture", grid).shape == (3, grid.rows, grid.columns)


def test_a_number_and_an_absent_picture_have_none():
    subject = subject_of(ENCODERS["cnn"][0])
    assert find_grid(subject, "number") is None
    blind = Subject.of(subject.model, subject.batch.without("picture"))
    assert find_grid(blind, "picture") is None


def test_a_backbone_with_a_class_token_has_its_patches(tmp_path):
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    ViTModel(ViTConfig(**small, image_size=SIDE, patch_size=4)).save_pretrained(tmp_path)
    subject = subject_of({"name": "pretrained", "path": str(tmp_path)})
    grid = find_grid(subject, "picture")
    assert (grid.rows, grid.columns, grid.skipped) == (8, 8, 1)
    assert (gradcam(subject, "picture", grid).amax((1, 2)) > 0).all()

    before = subject.model.encoders["picture"].model.config._attn_implementation
    flow = rollout(subject, "picture")
    assert subject.model.encoders["picture"].model.config._attn_implementation == before
    assert flow.shape == (3, 1 + 64)
    assert flow.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)


def test_frames_of_a_sound_lie_side_by_side():
    torch.manual_seed(0)
    inputs = {"voice": {"features": {"kind": "audio", "shape": (1, 8, 30)}, "encoder": {"name": "rnn", "hidden": 4}}}
    config = FusionConfig(
        inputs=inputs, fusion={"name": "mean", "width": 4}, task={"name": "classify", "labels": ("a", "b")}
    )
    batch = Batch({"voice": torch.randn(2, 1, 8, 30)}, torch.ones(2, 1, dtype=torch.bool), None, torch.arange(2))
    subject = Subject.of(FusionModel(config).eval(), batch)
    assert find_grid(subject, "voice") == Grid("layers.1", 1, 30)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_tap_changes_nothing_and_is_gone_afterwards(name):
    subject = subject_of(ENCODERS[name][0])
    encoder, x = subject.model.encoders["picture"], subject.batch.inputs["picture"]
    grid, seen = find_grid(subject, "picture"), []
    plain = encoder(x)
    with tapped(encoder, grid) as tap:
        tap.register_forward_hook(lambda _, __, cells: seen.append(cells))
        assert torch.equal(encoder(x).pooled, plain.pooled)
    assert [cells.shape[2:] for cells in seen] == [(grid.rows, grid.columns)]
    encoder(x)
    assert len(seen) == 1

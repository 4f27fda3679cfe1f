"""A frozen encoder runs once: training ends in the same weights as with the encoder in place."""

import pytest
import torch
from transformers import ViTConfig, ViTModel

from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.models.make import make_model
from triptych.recipe import ModelSettings
from triptych.train import loop
from triptych.train.frozen import Kept, kept
from triptych.train.settings import TrainSettings


@pytest.fixture
def parts(tiny_data, tmp_path):
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    ViTModel(config).save_pretrained(tmp_path / "vit")
    splits = read_splits(tiny_data)
    processor = Processor.fit(splits.table("train"), splits.schema, {"picture": {"size": 16}})
    rows, valid = (Samples(splits.table(name), processor, splits.schema) for name in ("train", "valid"))
    inputs = {"picture": {"encoder": {"name": "pretrained", "path": str(tmp_path / "vit")}}}
    settings = ModelSettings.model_validate({"inputs": inputs, "fusion": {"width": 16}})
    return (lambda: make_model(settings, processor, rows.labels, 0)), rows, valid


def settings(**changes):
    plain = {"name": "sgd", "lr": 0.01}  # two bytes a number: a small change of a gradient must stay small
    return TrainSettings(
        **{"steps": 6, "batch_size": 16, "evaluate_every": 6, "augment": False, "optimizer": plain, **changes}
    )


def test_the_table_says_what_the_encoder_says(parts):
    make, rows, valid = parts
    model = make().eval()
    encoder = model.encoders["picture"]
    plain = rows.batch(range(20))
    with kept(model, rows, valid) as (told, told_valid):
        assert isinstance(model.encoders["picture"], Kept)
        assert not any("encoders.picture" in name for name in model.state_dict())
        batch = told.batch(range(20))
        assert batch.inputs["picture"].shape == (20,)
        torch.testing.assert_close(
            model(batch.inputs, batch.presence).logits, model_with(model, encoder, plain), atol=5e-3, rtol=1e-2
        )
        assert len(told_valid) == len(valid)
    assert model.encoders["picture"] is encoder


def model_with(model, encoder, batch):
    table, model.encoders["picture"] = model.encoders["picture"], encoder
    logits = model(batch.inputs, batch.presence).logits
    model.encoders["picture"] = table
    return logits


def counted_by(calls):
    return lambda _module, inputs, _output: calls.append(len(inputs[0]))


def test_training_calls_the_encoder_once_a_cell_and_ends_alike(parts, monkeypatch):
    make, rows, valid = parts
    fast, slow = make(), make()
    calls = []
    fast.encoders["picture"].register_forward_hook(counted_by(calls))
    loop.train(fast, rows, valid, settings())
    cells = {cell for samples in (rows, valid) for cell in samples.table.column("picture")}
    assert sum(calls) == len(cells)
    monkeypatch.setattr(loop, "kept", lambda _, *samples: loop.nullcontext(samples))
    loop.train(slow, rows, valid, settings())
    moved = weights(slow) - weights(make())
    assert (weights(fast) - weights(slow)).norm() < 0.01 * moved.norm()


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_augmented_cells_are_encoded_every_time(parts):
    make, rows, valid = parts
    model, calls = make(), []
    model.encoders["picture"].register_forward_hook(counted_by(calls))
    loop.train(model, rows, valid, settings(augment=True))
    assert sum(calls) == 6 * 16 + len(valid)

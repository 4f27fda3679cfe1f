import copy

import pytest
import torch
from torch import nn
from transformers import AutoModel

from triptych.compress.passes import fold_norms, state_shapes
from triptych.compress.prune.width import shrink
from triptych.data.samples import Samples
from triptych.errors import InputError
from triptych.models.components import components
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.models.make import make_model
from triptych.models.summary import example_inputs, summarize
from triptych.recipe import ModelSettings


@pytest.fixture
def model(tiny_trained):
    return copy.deepcopy(tiny_trained.loaded.model)


@pytest.fixture
def batch(tiny_trained):
    loaded = tiny_trained.loaded
    return Samples(tiny_trained.splits.table("test"), loaded.processor, tiny_trained.splits.schema).batch(range(16))


def test_save_pretrained_and_the_auto_classes_give_the_same_model(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(again, FusionModel)
    assert torch.equal(model(batch.inputs, batch.presence).logits, again(batch.inputs, batch.presence).logits)


def test_a_pruned_folded_model_reloads_from_its_config_alone(model, batch, tmp_path):
    for width in model.widths()[:3]:
        shrink(model, width, torch.arange(width.units // 2))
    state_shapes(model)
    fold_norms(model, batch)
    expected = model(batch.inputs, batch.presence).logits
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(batch.inputs, batch.presence).logits, expected, rtol=1e-5, atol=1e-6)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in again.modules())


def test_an_absent_modality_is_the_learned_token_whatever_its_cell_holds(model, batch):
    absent = batch.without("sound")
    noise = {**absent.inputs, "sound": torch.randn_like(absent.inputs["sound"])}
    one = model(absent.inputs, absent.presence)
    two = model(noise, absent.presence)
    assert torch.equal(one.logits, two.logits)
    place = model.fields.index("sound")
    assert torch.equal(one.modalities[:, place], model.absent[place].expand(16, -1))


def test_a_row_without_any_modality_still_has_a_finite_answer(model, batch):
    nothing = torch.zeros_like(batch.presence)
    assert model(batch.inputs, nothing).logits.isfinite().all()


def test_presence_left_out_means_all_are_there(model, batch):
    everything = torch.ones_like(batch.presence)
    assert torch.equal(model(batch.inputs).logits, model(batch.inputs, everything).logits)


def test_components_own_every_parameter_once(model):
    parts = components(model)
    for name, _ in model.named_parameters():
        assert sum(part.owns(name) for part in parts) == 1, name
    assert {part.role for part in parts} == {"encoder", "connector", "embedding", "fusion", "head"}
    encoder = next(part for part in parts if part.name == "picture.encoder")
    assert encoder.modalities == ("picture",)


def test_the_summary_counts_every_weight_layer(model):
    rows = summarize(model)
    layers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.LSTM, nn.GRU)
    expected = sum(sum(p.numel() for p in m.parameters()) for m in model.modules() if isinstance(m, layers))
    assert sum(row.parameters for row in rows) == expected
    linear = next(row for row in rows if row.name == "task.output")
    assert linear.macs == 16 * 2  # 16 hidden features, 2 classes
    conv = next(row for row in rows if row.name == "encoders.picture.stem.conv")
    channels, height, width = conv.output
    assert conv.macs == channels * 3 * 9 * height * width


def test_example_inputs_have_the_shapes_of_the_config(model):
    inputs = example_inputs(model, batch=3)
    assert inputs["picture"].shape == (3, 3, 16, 16)
    assert inputs["word"].dtype == torch.long


def test_an_encoder_for_another_kind_of_column_is_refused_by_name(tiny_trained):
    settings = ModelSettings.model_validate({"inputs": {"word": {"encoder": {"name": "mlp"}}}})
    processor = tiny_trained.loaded.processor
    rows = Samples(tiny_trained.splits.table("train"), processor, tiny_trained.splits.schema)
    with pytest.raises(
        InputError, match=r"Encoder 'mlp' does not read text, which column 'word' holds\. It reads: category, number"
    ):
        make_model(settings, processor, rows.labels, 0)
    settings = ModelSettings.model_validate({"inputs": {"words": {}}})
    with pytest.raises(
        InputError,
        match=r"describes the input 'words', which the data does not have\. The inputs are: picture, sound, word",
    ):
        make_model(settings, processor, rows.labels, 0)
    settings = ModelSettings.model_validate({"fusion": {"name": "bilinaer"}})
    with pytest.raises(InputError, match=r"There is no fusion called 'bilinaer'\. Did you mean 'bilinear'\?"):
        make_model(settings, processor, rows.labels, 0)
    settings = ModelSettings.model_validate({"fusion": {"name": "concat", "hiden": 3}})
    with pytest.raises(
        InputError, match=r"The settings of fusion ConcatFusion do not fit \(hiden: .*\)\. It takes: hidden"
    ):
        make_model(settings, processor, rows.labels, 0)


def test_a_model_without_inputs_is_refused():
    with pytest.raises(InputError, match="at least one input"):
        FusionModel(FusionConfig())


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


@pytest.fixture
def guessing(tiny_trained):
    """The tiny model with fresh weights that guesses absent modalities from the others."""
    config = copy.deepcopy(tiny_trained.loaded.model.config)
    config.fusion = {**config.fusion, "reconstruct": 0.5}
    config.folded, config.shapes = {}, {}
    torch.manual_seed(0)
    return FusionModel(config).eval()


def test_an_absent_modality_is_guessed_from_the_others_alone(guessing, batch):
    absent = batch.without("sound")
    noise = {**absent.inputs, "sound": torch.randn_like(absent.inputs["sound"])}
    one, two = (guessing(inputs, absent.presence) for inputs in (absent.inputs, noise))
    assert torch.equal(one.logits, two.logits)
    whole = guessing(batch.inputs, batch.presence).modalities
    place = guessing.fields.index("sound")
    others = torch.cat([whole[:, :place], whole[:, place + 1 :]], dim=1).flatten(1)
    torch.testing.assert_close(one.modalities[:, place], guessing.reconstruction.maps[place](others))
    assert not torch.equal(one.modalities[0, place], one.modalities[1, place])  # another guess for each sample


def test_guesses_are_taught_where_they_can_be_checked_and_teach_nothing_else(guessing, batch):
    presence = batch.presence.clone()
    presence[:, 1:] = False  # one modality is left: nothing to check
    assert float(guessing.reconstruction.loss(torch.randn(16, 3, 16), presence).detach()) == 0
    one, two = (guessing(batch.inputs, batch.presence, labels=batch.labels) for _ in range(2))
    told = guessing.task.loss(two.logits, batch.labels)
    errors = (guessing.reconstruction(two.modalities) - two.modalities).square().mean()
    torch.testing.assert_close(one.loss, told + 0.5 * errors)
    guessing.reconstruction.loss(one.modalities, batch.presence).backward()
    taught = {name for name, p in guessing.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {f"reconstruction.maps.{m}.{part}" for m in range(3) for part in ("weight", "bias")}


def test_guessing_needs_several_vectors(tiny_trained):
    config = copy.deepcopy(tiny_trained.loaded.model.config)
    config.fusion = {"name": "concat", "width": 16, "reconstruct": 1.0}
    config.inputs = {"word": config.inputs["word"]}
    with pytest.raises(InputError, match="guesses one vector from others, which concat of 1 inputs does not have"):
        FusionModel(config)

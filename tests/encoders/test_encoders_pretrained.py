"""Hugging Face backbones: tiny random ones saved in a folder, and a real one where the model pack is at hand."""

import logging
import os
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.export import Dim, export
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    WhisperConfig,
    WhisperModel,
)

from triptych.encoders.pretrained import PretrainedEncoder
from triptych.errors import InputError
from triptych.structure import Features

IMAGE = Features(kind="image", shape=(3, 16, 16))
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
VIT = ViTConfig(**SMALL, image_size=16, patch_size=8)
CLIP = CLIPModel(
    CLIPConfig(
        text_config=SMALL | {"vocab_size": 30, "max_position_embeddings": 12, "eos_token_id": 29},
        vision_config=SMALL | {"image_size": 16, "patch_size": 8},
    )
)
MODELS = Path(os.environ.get("TRIPTYCH_MODELS", Path(__file__).parents[3] / "shared" / "models"))


@pytest.fixture(autouse=True)
def quiet():
    """Transformers reports each unused weight of a checkpoint; that is not what is tested."""
    transformers.utils.logging.disable_progress_bar()
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.fixture
def vit(tmp_path):
    torch.manual_seed(0)
    ViTModel(VIT).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def encoder_of(path, features=IMAGE, **settings):
    return PretrainedEncoder(PretrainedEncoder.Config(path=str(path), **settings), features)


def test_gives_what_the_backbone_gives(vit):
    encoder, x = encoder_of(vit), torch.randn(2, 3, 16, 16)
    expected = ViTModel.from_pretrained(vit).eval()(x)
    encoded = encoder(x)
    assert encoder.width == 16
    assert torch.allclose(encoded.pooled, expected.pooler_output, atol=1e-6)
    assert torch.allclose(encoded.tokens, expected.last_hidden_state, atol=1e-6)
    assert encoded.mask.shape == (2, 5)
    assert encoded.mask.all()
    assert (encoder.widths(), encoder.droppable()) == ([], [])


def test_frozen_stays_in_eval_mode_and_has_no_gradients(vit):
    encoder = encoder_of(vit).train()
    assert encoder.training
    assert not any(module.training for module in encoder.model.modules())
    assert not encoder(torch.randn(2, 3, 16, 16)).pooled.requires_grad


def test_unfrozen_trains(vit):
    encoder = encoder_of(vit, frozen=False).train()
    assert all(module.training for module in encoder.model.modules())
    encoded = encoder(torch.randn(2, 3, 16, 16))
    (encoded.pooled.sum() + encoded.tokens.square().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0 or name.endswith("key.bias"), name


def test_a_random_pooler_is_not_used(tmp_path):
    ViTForImageClassification(VIT).save_pretrained(tmp_path)
    encoder = encoder_of(tmp_path)
    encoded = encoder(torch.randn(2, 3, 16, 16))
    assert not any("pooler" in name for name, _ in encoder.named_parameters())
    assert torch.allclose(encoded.pooled, encoded.tokens.mean(dim=1), atol=1e-6)


@pytest.mark.parametrize("pooler", [True, False])
def test_is_built_again_without_the_folder(tmp_path, pooler):
    (ViTModel if pooler else ViTForImageClassification)(VIT).save_pretrained(tmp_path)
    encoder, x = encoder_of(tmp_path), torch.randn(2, 3, 16, 16)
    text = encoder.config.model_dump_json()
    config = PretrainedEncoder.Config.model_validate_json(text.replace(str(tmp_path), "gone"))
    again = PretrainedEncoder(config, IMAGE)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(x).pooled, encoder(x).pooled)
    assert (again.config, again.width) == (config, encoder.width)
    assert not any(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("model", [CLIP, BertModel(BertConfig(**SMALL, vocab_size=30))], ids=["clip", "bert"])
def test_reads_text_without_its_padding(tmp_path, model):
    model.save_pretrained(tmp_path)
    encoder = encoder_of(tmp_path, Features(kind="text", shape=(8,), vocabulary=30))
    ids = torch.tensor([[5, 6, 7, 29], [8, 9, 29, 0]])
    short, padded = encoder(ids), encoder(torch.nn.functional.pad(ids, (0, 4)))
    assert torch.allclose(short.pooled, padded.pooled, atol=1e-5)
    assert padded.mask.sum(dim=1).tolist() == [4, 3]


def test_takes_the_tower_of_the_modality(tmp_path):
    CLIP.save_pretrained(tmp_path)
    encoder = encoder_of(tmp_path)
    assert encoder(torch.randn(2, 3, 16, 16)).tokens.shape == (2, 5, 16)
    assert not any("text" in name for name, _ in encoder.named_parameters())


def test_takes_the_encoder_of_an_encoder_decoder(tmp_path):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    config = WhisperConfig(
        **sizes, decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_mel_bins=10,
        max_source_positions=6, vocab_size=30, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperModel(config).save_pretrained(tmp_path)
    encoder = encoder_of(tmp_path, Features(kind="audio", shape=(1, 10, 12)))
    assert encoder(torch.randn(2, 1, 10, 12)).tokens.shape == (2, 6, 16)


def test_a_spectrogram_is_shown_to_all_colour_channels(vit):
    encoder, x = encoder_of(vit, Features(kind="audio", shape=(1, 16, 16))), torch.randn(2, 1, 16, 16)
    assert torch.equal(encoder(x).pooled, encoder_of(vit)(x.expand(-1, 3, -1, -1)).pooled)


def test_a_sound_is_read_patch_by_patch(vit):
    whole, patch = Features(kind="audio", shape=(1, 16, 40)), Features(kind="audio", shape=(1, 16, 16))
    encoder, x = encoder_of(vit, whole, patch=16, patch_hop=8), torch.randn(2, 1, 16, 40)
    encoded, alone = encoder(x), encoder_of(vit, patch)
    assert encoded.tokens.shape == (2, 4, 16)
    for place in range(4):
        begin = 8 * place
        expected = alone(x[..., begin : begin + 16]).pooled
        assert torch.allclose(encoded.tokens[:, place], expected, atol=1e-6)
    assert torch.allclose(encoded.pooled, encoded.tokens.mean(1))
    side_by_side = encoder_of(vit, whole, patch=16)(x).tokens
    assert torch.allclose(side_by_side, encoded.tokens[:, [0, 2]], atol=1e-6)


@pytest.mark.parametrize("features", [IMAGE, Features(kind="audio", shape=(1, 16, 12))])
def test_patches_that_cannot_be_cut_are_refused(vit, features):
    with pytest.raises(InputError, match=r"Patches of 16 frames cannot be cut from (image|audio) features"):
        encoder_of(vit, features, patch=16)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # the backbone's own checks of sizes
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # the tracer reads every attribute
def test_traces_and_exports_take_another_batch_size(vit):
    encoder, x = encoder_of(vit), torch.randn(5, 3, 16, 16)
    traced = torch.jit.trace(encoder, x[:2], check_trace=False)
    assert torch.allclose(traced(x)[0], encoder(x).pooled, atol=1e-5)
    program = export(encoder, (x[:2],), dynamic_shapes=({0: Dim("batch")},))
    assert torch.allclose(program.module()(x)[0], encoder(x).pooled, atol=1e-5)


def test_a_folder_without_a_backbone_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"No backbone could be loaded from .* Give a folder with config.json"):
        encoder_of(tmp_path)


def test_an_incomplete_checkpoint_is_refused(vit):
    tensors = load_file(vit / "model.safetensors")
    del tensors[next(name for name in tensors if "pooler" not in name)]
    save_file(tensors, vit / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 1 weights of its own model, among them .* Download it again"):
        encoder_of(vit)


def test_features_that_the_backbone_does_not_read_are_refused(vit):
    with pytest.raises(InputError, match=r"does not read image features of 3 x 20 x 20: .* Choose a backbone"):
        encoder_of(vit, Features(kind="image", shape=(3, 20, 20)))


def test_ids_that_the_backbone_does_not_know_are_refused(tmp_path):
    BertModel(BertConfig(**SMALL, vocab_size=30)).save_pretrained(tmp_path)
    with pytest.raises(
        InputError, match=r"The text features have 31 ids, but the backbone .* knows 30. Use the tokenizer"
    ):
        encoder_of(tmp_path, Features(kind="text", shape=(8,), vocabulary=31))


def test_a_real_backbone_sees_the_same_as_its_own_class():
    folder = MODELS / "mobilenetv2-imagenet"
    if not folder.is_dir():
        pytest.skip("no mobilenetv2-imagenet: set TRIPTYCH_MODELS to the folder of the model pack")
    encoder = encoder_of(folder, Features(kind="image", shape=(3, 96, 96))).train()
    x = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    encoded = encoder(x)
    model = transformers.MobileNetV2ForImageClassification.from_pretrained(folder).eval()
    assert encoder.width == 1280
    assert encoded.tokens.shape == (2, 9, 1280)
    assert torch.allclose(model.classifier(encoded.pooled), model(x).logits, atol=1e-4)
    assert torch.allclose(encoded.tokens.mean(dim=1), encoded.pooled, atol=1e-5)


SEGFORMER = {
    "model_type": "segformer",
    "num_encoder_blocks": 3,
    "depths": [1, 1, 1],
    "hidden_sizes": [8, 12, 16],
    "num_attention_heads": [1, 1, 2],
    "sr_ratios": [2, 1, 1],
    "patch_sizes": [7, 3, 3],
    "strides": [4, 2, 2],
    "mlp_ratios": [2, 2, 2],
}
PICTURE = Features(kind="image", shape=(3, 32, 48))


def fresh(features=PICTURE, **settings):
    return PretrainedEncoder(PretrainedEncoder.Config(fresh=SEGFORMER, frozen=False, **settings), features)


def test_a_configuration_makes_a_backbone_and_scales_make_a_fine_grid():
    torch.manual_seed(0)
    encoder, x = fresh(scales=3).eval(), torch.randn(2, 3, 32, 48)
    encoded = encoder(x)
    maps = encoder.model(x, output_hidden_states=True).hidden_states
    assert encoder.width == 8 + 12 + 16
    assert encoded.tokens.shape == (2, 8 * 12, 36)
    assert torch.allclose(encoded.tokens[:, :, :8], maps[0].flatten(2).transpose(1, 2), atol=1e-6)
    enlarged = torch.nn.functional.interpolate(maps[1], (8, 12), mode="bilinear").flatten(2).transpose(1, 2)
    assert torch.allclose(encoded.tokens[:, :, 8:20], enlarged, atol=1e-6)
    assert torch.allclose(encoded.pooled, encoded.tokens.mean(1))


def test_a_fresh_backbone_is_built_again_from_its_folder():
    encoder = fresh(scales=2)
    again = PretrainedEncoder(PretrainedEncoder.Config(**encoder.config.model_dump(mode="json")), PICTURE)
    again.load_state_dict(encoder.state_dict())
    x = torch.randn(1, 3, 32, 48)
    assert torch.equal(encoder.eval()(x).tokens, again.eval()(x).tokens)
    assert again.width == 12 + 16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fresh": {"model_type": "segfromer"}, "frozen": False}, "No backbone can be made from this configuration"),
        ({"fresh": SEGFORMER, "frozen": False, "scales": 4}, "it has feature maps of 3 resolutions, not 4"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        PretrainedEncoder(PretrainedEncoder.Config(**settings), PICTURE)


@pytest.mark.parametrize("settings", [{}, {"path": "a", "fresh": SEGFORMER}, {"fresh": SEGFORMER}])
def test_weights_come_from_one_place_and_fresh_ones_must_learn(settings):
    with pytest.raises(ValueError, match=r"give one of `path` and `fresh`|fresh weights that are frozen learn nothing"):
        PretrainedEncoder.Config(**settings)

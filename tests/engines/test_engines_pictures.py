"""A vision-language model behind one `generate`: pictures encoded by OpenVINO, words decoded by ONNX Runtime, both with our codes."""

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from triptych.compress.quantize import layers
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme
from triptych.compress.quantize.rounding import quantize_weight
from triptych.engines.generate import TorchDecoder, generate
from triptych.engines.pictures import NAME, open_encoder, placed
from triptych.errors import InputError, NumericsError

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx_ir")

from triptych.export import onnx
from triptych.export import pictures as encoders

TOKEN, PLACES = 96, 4
TEXT = LlamaConfig(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(the model with its weights as rounded, an exported folder)."""
    torch.manual_seed(3)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = LlavaConfig(vision_config=vision, text_config=TEXT, image_token_index=TOKEN, tie_word_embeddings=False)
    model = LlavaForConditionalGeneration(config).eval()
    codes = {
        name: quantize_weight(view, LayerScheme(weight=Grid(bits=4, group=16), method="rtn"))
        for name, view in layers.weights(model).items()
        if view.kind == "linear"
    }
    out = tmp_path_factory.mktemp("llava")
    words = {name: item for name, item in codes.items() if "vision" not in name and "projector" not in name}
    assert len(words) < len(codes)
    onnx.export(model, words, out, round_inputs=False)
    layers.apply(model, codes)
    encoders.export(model, {"pixel_values": torch.randn(1, 3, 16, 16), "unread": torch.zeros(1)}, codes, out)
    return model, out


@pytest.fixture
def prompt():
    """Ids that keep four places, and a picture."""
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(4, 90, (1, 14), generator=generator)
    ids[:, 3 : 3 + PLACES] = TOKEN
    return ids, {"pixel_values": torch.randn(1, 3, 16, 16, generator=generator)}


def test_the_folder_answers_as_transformers_does(folder, prompt):
    model, out = folder
    ids, pictures = prompt
    expected = model.generate(input_ids=ids, **pictures, max_new_tokens=20, do_sample=False, pad_token_id=0)[:, 14:]
    assert torch.equal(generate(out, ids, pictures=pictures, max_new_tokens=20), expected)
    assert torch.equal(generate(model, ids, pictures=pictures, max_new_tokens=20), expected)


def test_codes_of_the_encoder_are_its_weights(folder, prompt):
    """The vectors are those of the rounded model, and the file holds four bits a weight where layers were rounded."""
    model, out = folder
    ids, pictures = prompt
    engine, token = open_encoder(out)
    assert token == TOKEN
    left, vectors = placed(engine, token, ids, pictures)
    with torch.no_grad():
        wanted = model.get_image_features(**pictures).pooler_output[0]
    assert torch.equal(left == -1, ids == TOKEN)
    torch.testing.assert_close(vectors[0, 3 : 3 + PLACES], wanted, atol=1e-5, rtol=1e-4)
    kept = [p for name, p in model.named_parameters() if "vision" in name or "projector" in name]
    size = (out / NAME).with_suffix(".bin").stat().st_size
    assert size < sum(p.numel() for p in kept if p.dim() > 1) * 4 / 2


def test_errors_say_what_is_wrong(folder, prompt, tmp_path):
    model, out = folder
    ids, pictures = prompt
    with pytest.raises(InputError, match="that keep their places"):
        generate(TorchDecoder(model), ids, pictures=pictures, max_new_tokens=1)
    with pytest.raises(InputError, match="5 tokens 96 where pictures go"):
        generate(out, torch.full((1, 5), TOKEN), pictures=pictures, max_new_tokens=1)
    with pytest.raises(InputError, match="so it takes no pictures"):
        generate(tmp_path, ids, pictures=pictures, max_new_tokens=1)
    with pytest.raises(InputError, match="exists already"):
        encoders.export(model, pictures, None, out)
    with pytest.raises(InputError, match="one row each"):
        encoders.export(model, {"pixel_values": torch.zeros(2, 3, 16, 16)}, None, tmp_path)
    with pytest.raises(InputError, match="takes no pictures"):
        encoders.export(LlamaForCausalLM(TEXT), pictures, None, tmp_path)


def test_a_folder_that_answers_otherwise_gets_no_encoder(folder, prompt, tmp_path):
    model, out = folder
    for name in (onnx.NAME, onnx.DATA):
        (tmp_path / name).symlink_to(out / name)
    before, model.lm_head.weight = model.lm_head.weight, torch.nn.Parameter(model.lm_head.weight.flip(0))
    try:
        with pytest.raises(NumericsError, match="exported answers are"):
            encoders.export(model, prompt[1], None, tmp_path)
    finally:
        model.lm_head.weight = before
    assert not (tmp_path / NAME).exists()

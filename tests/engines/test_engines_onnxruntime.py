"""Cached generation in ONNX Runtime with our codes: the tokens and logits of transformers, and the operands themselves."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration
from transformers.models.mistral.configuration_mistral import MistralConfig

from triptych.compress.quantize import layers
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme
from triptych.compress.quantize.rounding import quantize_weight
from triptych.decoders.search import Sampler
from triptych.engines.generate import TorchDecoder, generate, stream
from triptych.engines.onnxruntime import OnnxDecoder
from triptych.errors import ArtifactError, InputError

pytest.importorskip("onnxruntime")
onnx_ir = pytest.importorskip("onnx_ir")

from triptych.export import onnx  # noqa: E402
from triptych.export.onnx_codes import to_blocks  # noqa: E402

TEXT = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
GRIDS = (
    Grid(bits=4, group=32),
    Grid(bits=4, group=16, symmetric=False),
    Grid(bits=3, group=48),
    Grid(bits=8),
    Grid(bits=2, group=32, symmetric=False),
    Grid(bits=5, group=64, symmetric=False),
    Grid(bits=4, group=24),  # no multiple of 16: no operator reads it as codes
)


def rounded(model, grids):
    views = [view for name, view in layers.weights(model).items() if "vision" not in name and "projector" not in name]
    schemes = [LayerScheme(weight=grids[i % len(grids)], method="rtn") for i in range(len(views))]
    return {view.name: quantize_weight(view, scheme) for view, scheme in zip(views, schemes, strict=True)}


def restored(model, quantized):
    twin = copy.deepcopy(model)
    layers.apply(twin, quantized)
    return twin


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A Llama with a tied head, every weight in four bits: (model of the restored weights, exported path)."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=True, eos_token_id=3)).eval()
    quantized = rounded(model, GRIDS[:1])
    before = copy.deepcopy(model.state_dict())
    path = onnx.export(model, quantized, tmp_path_factory.mktemp("llama"), round_inputs=False)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.config._attn_implementation == "sdpa"
    return restored(model, quantized), path


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    """An image-and-text model whose attention looks back 10 tokens, each weight on another grid."""
    torch.manual_seed(1)
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=MistralConfig(**TEXT, sliding_window=10),
        image_token_index=96,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config).eval()
    quantized = rounded(model, GRIDS)
    path = onnx.export(model, quantized, tmp_path_factory.mktemp("llava"))
    return restored(model, quantized), path, quantized


def transformers_greedy(model, count, **prompt):
    made = model.generate(**prompt, max_new_tokens=count, do_sample=False, pad_token_id=0)
    return made[:, prompt["input_ids"].shape[1] :]


def test_tokens_and_logits_are_those_of_transformers(llama):
    model, path = llama
    ids = torch.randint(4, 97, (1, 20), generator=torch.Generator().manual_seed(5))
    expected = transformers_greedy(model, 30, input_ids=ids)
    assert torch.equal(generate(path.parent, ids, max_new_tokens=30), expected)
    assert torch.equal(generate(model, ids, max_new_tokens=30), expected)
    decoder = OnnxDecoder(path, threads=1)
    decoder.reset(50)
    logits = np.stack([decoder(part.numpy()).copy() for part in (ids[0, :7], ids[0, 7:19], ids[0, 19:])])
    with torch.no_grad():
        wanted = model(ids).logits[0, [6, 18, 19]].numpy()
    np.testing.assert_allclose(logits, wanted, atol=1e-5)


def test_the_same_seed_draws_the_same_tokens(llama):
    model, path = llama
    ids = torch.tensor([[5, 6, 7]])
    ours, theirs, other = (
        generate(source, ids, max_new_tokens=12, end=(), sampler=Sampler(top_p=0.9, seed=seed))
        for source, seed in ((path.parent, 3), (model, 3), (path.parent, 4))
    )
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours, other)


def test_the_graph_is_fused_and_holds_each_weight_once(llama):
    _, path = llama
    graph = onnx_ir.load(path).graph
    names = [node.op_type for node in graph]
    assert names.count("GroupQueryAttention") == 2
    assert names.count("MatMulNBits") == 2 * 4 + 1  # query, key and value are one product, and so are gate and up
    assert names.count("SkipSimplifiedLayerNormalization") == 4
    assert "MatMul" not in names
    codes = TEXT["vocab_size"] * 64 + 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96)
    tables = 2 * 128 * 8 * 4
    size = path.with_name(onnx.DATA).stat().st_size
    assert size < codes / 2 * (1 + 1 / 8) + tables + TEXT["vocab_size"] * 32 + 8192


def test_generation_stops_at_an_end_and_reads_from_where_it_is_asked(llama):
    model, path = llama
    decoder = OnnxDecoder(path, threads=1)
    ids = torch.tensor([[5, 6, 7]])
    all_made = generate(decoder, ids, max_new_tokens=12, end=())
    end = int(all_made[0, 4])
    first = all_made[0].tolist().index(end) + 1
    assert torch.equal(generate(decoder, ids, max_new_tokens=12, end=(end,)), all_made[:, :first])
    vectors = model.get_input_embeddings()(ids)
    assert torch.equal(generate(decoder, None, vectors, max_new_tokens=12, end=()), all_made)
    mixed = torch.tensor([[5, -1, 7]])
    assert torch.equal(generate(decoder, mixed, vectors, max_new_tokens=12, end=()), all_made)
    assert torch.equal(generate(TorchDecoder(model, threads=1), mixed, vectors, max_new_tokens=12, end=()), all_made)
    assert list(stream(decoder, ids, max_new_tokens=3)) == all_made[0, :3].tolist()
    assert decoder.end == TorchDecoder(model).end == (3,)


def test_an_image_is_read_through_the_embeddings(llava):
    """The encoder runs where it likes; the decoder takes what it made. Inputs are rounded here, so tokens may differ."""
    model, path, quantized = llava
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 90, (1, 18), generator=generator)
    ids[:, 2:6] = 96
    pixels = torch.randn(1, 3, 16, 16, generator=generator)
    seen = []
    hook = model.model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["inputs_embeds"].clone()), with_kwargs=True
    )
    with torch.no_grad():
        wanted = model(input_ids=ids, pixel_values=pixels).logits[0, -1].numpy()
    hook.remove()
    decoder = OnnxDecoder(path, threads=1)
    decoder.reset(18)
    logits = decoder(np.full(18, -1), seen[0][0].numpy())
    error = np.sqrt(((logits - wanted) ** 2).mean()) / wanted.std()
    assert 0 < error < 0.05
    assert 0 < float(decoder.metadata["input_rounding"]) < 0.05
    dense = [name for name, item in quantized.items() if item.codes.grid.group == 24]
    assert dense
    assert decoder.metadata["dense"].split() == dense


@pytest.mark.parametrize("grid", GRIDS)
def test_operands_stand_for_the_same_matrix(grid):
    torch.manual_seed(0)
    for rows, columns in ((7, 96), (5, 100), (3, 16)):
        view = layers.weights(nn.Linear(columns, rows))["weight"]
        codes = quantize_weight(view, LayerScheme(weight=grid, method="rtn")).codes
        blocks = to_blocks(codes)
        if grid.group == 24 and columns > 24:
            assert blocks is None
            continue
        places = np.arange(8 // blocks.bits) * blocks.bits

        def unpack(packed, places=places, blocks=blocks):
            values = packed.numpy()[..., None] >> places & (1 << blocks.bits) - 1
            return values.reshape(*packed.shape[:-1], -1).astype(np.float32)

        count = blocks.scale.shape[1]
        middle = 1 << (blocks.bits - 1)
        zero = np.full((rows, count), middle) if blocks.zero is None else unpack(blocks.zero)[:, :count]
        matrix = (unpack(blocks.codes) - zero[..., None]) * blocks.scale.numpy()[..., None]
        np.testing.assert_array_equal(matrix.reshape(rows, -1)[:, :columns], codes.dequantize().numpy())
        assert not matrix.reshape(rows, -1)[:, columns:].any()


def test_errors_say_what_is_wrong(llama, tmp_path):
    model, path = llama
    decoder = OnnxDecoder(path, threads=1)
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(InputError, match="A sequence of 132 tokens is longer than the 128"):
        generate(decoder, ids, max_new_tokens=130)
    with pytest.raises(InputError, match="A prompt needs input_ids"):
        generate(decoder, max_new_tokens=1)
    with pytest.raises(InputError, match="max_new_tokens is 0"):
        generate(decoder, ids, max_new_tokens=0)
    decoder.reset(2)
    with pytest.raises(InputError, match="Ids between 5 and 97 are not of a vocabulary of 97"):
        decoder(np.array([5, 97]))
    fresh = OnnxDecoder(path, threads=1)
    fresh.reset(2)
    with pytest.raises(InputError, match="3 tokens do not fit after 0 where there is room for 2"):
        fresh(np.array([5, 6, 7]))
    with pytest.raises(InputError, match=r"decoder\.onnx exists already"):
        onnx.export(model, None, path.parent)
    with pytest.raises(InputError, match=r"no compressible weight 'nose\.weight'"):
        onnx.export(model, {"nose.weight": next(iter(rounded(model, GRIDS).values()))}, tmp_path)
    (tmp_path / "decoder.onnx").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="is not a decoder that can be run"):
        OnnxDecoder(tmp_path / "decoder.onnx")


def test_models_without_such_a_cache_are_refused(tmp_path):
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1, state_size=4))
    with pytest.raises(InputError, match="MambaForCausalLM cannot be exported for cached generation"):
        onnx.export(model, None, tmp_path)
    assert not list(tmp_path.iterdir())

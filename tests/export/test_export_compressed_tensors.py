"""Folders in the compressed-tensors format: decoded here bit by bit, and read by released libraries where those are at hand."""

import json
import os
import pickle
import re
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from families import FAMILIES
from triptych.compress.quantize import float8
from triptych.compress.quantize.activation import Range
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight, apply
from triptych.compress.quantize.rtn import quantize
from triptych.errors import ArtifactError, InputError
from triptych.export.card import card
from triptych.export.compressed_tensors import Stored, caution, group_for, narrow, quantization_config, stored, tensors
from triptych.export.folder import FolderWriter
from triptych.export.packable import unpackable
from triptych.export.targets import targets
from triptych.models.folder import find_weights, open_folder, skeleton
from triptych.models.tiny_batch import tiny_batch

READER = os.environ.get("TRIPTYCH_READER_PYTHON")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "peers" / "read_folder.py"
GRIDS = [
    Grid(bits=bits, group=group, symmetric=symmetric)
    for bits in range(2, 9)
    for group in (None, 7, 32)
    for symmetric in (True, False)
]


def fp8(weight):
    scheme = LayerScheme(weight=float8.GRID, method="float8")
    return QuantizedWeight(float8.quantize(weight.detach(), None), tuple(weight.shape), scheme)


def item_of(grid, rows=5, columns=21, activation=None):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(grid.bits))
    scheme = LayerScheme(weight=grid, activation=activation, method="rtn")
    span = Range(low=-0.7, high=2.3) if activation else None
    return QuantizedWeight(quantize(weight, None, grid), (rows, columns), scheme, span)


def decode(found, arguments):
    """The weight that tensors and config arguments stand for, one bit at a time."""

    def unpack(words, count, bits):
        stream = [(word >> bit) & 1 for word in words.tolist() for bit in range(32)]
        codes = [sum(stream[i * bits + bit] << bit for bit in range(bits)) for i in range(count)]
        return [code - 2 ** (bits - 1) for code in codes]

    scale, bits = found["weight_scale"], arguments["num_bits"]
    zero = found.get("weight_zero_point")
    if "weight" in found:
        codes = found["weight"].to(torch.float64)
    else:
        rows, columns = found["weight_shape"].tolist()
        codes = torch.tensor([unpack(row, columns, bits) for row in found["weight_packed"]], dtype=torch.float64)
        if zero is not None:
            zero = torch.tensor([unpack(column, rows, bits) for column in zero.T]).T
    rows, columns = codes.shape
    group = arguments["group_size"] or columns
    zero = torch.zeros(scale.shape) if zero is None else zero
    codes, zero, scale = codes.tolist(), zero.tolist(), scale.to(torch.float64).tolist()
    places = [[(r, c, c // group) for c in range(columns)] for r in range(rows)]
    return torch.tensor([[(codes[r][c] - zero[r][g]) * scale[r][g] for r, c, g in row] for row in places])


def entry_of(entry):
    return quantization_config({"a": entry}, [])["config_groups"]["group_0"]


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_what_is_stored_decodes_to_the_weight(grid, plain):
    columns = 64 if grid.group == 32 else 21
    item = item_of(grid, columns=columns)
    entry = stored(item, plain=plain)
    found = {name.removeprefix("a.b."): t for name, t in tensors("a.b.weight", item, format=entry.format).items()}
    assert all(t.is_contiguous() for t in found.values())
    assert torch.equal(decode(found, entry_of(entry)["weights"]), item.restored())


def test_names_types_and_shapes():
    packed = tensors("a.weight", item_of(Grid(bits=3, group=8, symmetric=False), 40, 64))
    assert {name: (t.dtype, tuple(t.shape)) for name, t in packed.items()} == {
        "a.weight_packed": (torch.int32, (40, 6)),
        "a.weight_shape": (torch.int64, (2,)),
        "a.weight_scale": (torch.float16, (40, 8)),
        "a.weight_zero_point": (torch.int32, (4, 8)),
    }
    rounded = tensors("weight", item_of(Grid(bits=8), activation=8))
    assert {name: (t.dtype, tuple(t.shape)) for name, t in rounded.items()} == {
        "weight": (torch.int8, (5, 21)),
        "weight_scale": (torch.float16, (5, 1)),
        "input_scale": (torch.float32, (1,)),
        "input_zero_point": (torch.int8, (1,)),
    }
    span = Range(low=-0.7, high=2.3)
    assert float(rounded["input_scale"]) == span.scale
    assert int(rounded["input_zero_point"]) == span.zero - 128
    floats = tensors("a.weight", fp8(torch.randn(4, 6)))
    assert floats["a.weight"].dtype == torch.float8_e4m3fn
    assert floats["a.weight_scale"].shape == (4, 1)


def test_scales_are_two_bytes_only_where_that_is_exact():
    assert narrow(torch.tensor([[0.5]])).dtype == torch.float16
    assert narrow(torch.tensor([[2.0**-60]])).dtype == torch.bfloat16
    odd = torch.tensor([[1 / 3]])
    assert torch.equal(narrow(odd), odd)


def test_what_no_reader_takes_is_refused():
    ragged = item_of(Grid(bits=4, group=8), columns=84)
    with pytest.raises(InputError, match="Groups of 8 do not divide 84 columns"):
        stored(ragged)
    with pytest.raises(InputError, match="symmetric weight with one scale a row"):
        stored(item_of(Grid(bits=8, group=7)), "token")
    with pytest.raises(InputError, match="Leave it dense"):
        tensors("rnn.weight_ih_l0", item_of(Grid(bits=4)))
    with pytest.raises(InputError, match="cannot be stored as float-quantized"):
        tensors("a.weight", item_of(Grid(bits=4)), format="float-quantized")
    weight = torch.randn(2, 3, 3)
    conv = QuantizedWeight(quantize(weight.flatten(1), None, Grid(bits=4)), (2, 3, 3), LayerScheme(weight=Grid(bits=4)))
    with pytest.raises(InputError, match="not a weight of shape"):
        stored(conv)


def test_group_for():
    cases = {(4304, 128): 16, (588, 32): 28, (576, 128): 96, (86, 32): None, (64, 64): None, (64, 32): 32, (12, 4): 4}
    assert {case: group_for(*case) for case in cases} == cases
    assert group_for(64, None) is None


def test_config_of_a_mixed_plan():
    layers = {
        "v.layers.0.q": Stored(format="pack-quantized", bits=4, group=32),
        "v.layers.1.q": Stored(format="pack-quantized", bits=4, group=32),
        "v.layers.0.k": Stored(format="int-quantized", inputs="tensor"),
        "head": Stored(format="float-quantized", inputs="token"),
    }
    config = quantization_config(layers, ["v.gate"], kv_cache_scheme={"num_bits": 8})
    assert (config["quant_method"], config["format"], config["ignore"]) == (
        "compressed-tensors",
        "mixed-precision",
        ["v.gate"],
    )
    assert config["quantization_status"] == "compressed"
    assert config["kv_cache_scheme"] == {"num_bits": 8}
    groups = {tuple(group["targets"]): group for group in config["config_groups"].values()}
    four = groups[("re:^v\\.layers\\.(?:0|1)\\.q$",)]
    assert (four["format"], four["input_activations"]) == ("pack-quantized", None)
    weights = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
    assert four["weights"] == weights
    fixed = groups[("v.layers.0.k",)]["input_activations"]
    assert (fixed["strategy"], fixed["symmetric"], fixed["dynamic"]) == ("tensor", False, False)
    token = groups[("head",)]["input_activations"]
    assert (token["type"], token["strategy"], token["symmetric"], token["dynamic"]) == ("float", "token", True, True)
    assert json.loads(json.dumps(config)) == config
    assert quantization_config({"a": layers["head"]}, [])["format"] == "float-quantized"
    with pytest.raises(InputError, match="rounded and as dense"):
        quantization_config(layers, ["head"])


def test_zero_points_that_a_reader_refuses_are_told():
    assert "3 bits" in str(caution(stored(item_of(Grid(bits=3, symmetric=False)))))
    assert caution(stored(item_of(Grid(bits=8, symmetric=False)))) is None
    assert caution(stored(item_of(Grid(bits=3)))) is None


def matched(patterns, name):
    return sum(bool(re.match(p[3:], name)) if p.startswith("re:") else p == name for p in patterns)


def test_targets_match_their_modules_alone_under_every_name():
    language = [f"model.language_model.layers.{i}.q_proj" for i in range(12)]
    vision = [f"vit.layers.{i}.q_proj" for i in range(3)]
    names = [*language, *vision, "lm_head", "model.visual.blocks.10.fc", "3", "a.b-c"]
    disk = {name: name.replace("model.language_model", "language_model.model") for name in language}
    disk |= {name: f"vit.encoder.layer.{name.split('.')[2]}.attention.query" for name in vision}
    disk["lm_head"] = "language_model.lm_head"
    known = {*names, *disk.values()}
    patterns = targets(names, disk, known)
    assert len(patterns) == 6
    for name in (*known, "language_model.layers.11.q_proj", "visual.blocks.10.fc"):
        assert matched(patterns, name) == 1, name
    for name in ("model.language_model.layers.12.q_proj", "lm_head.0", "model_visual.blocks.10.fc", "xlm_head"):
        assert not matched(patterns, name), name


def test_a_name_is_not_taken_from_another_module():
    patterns = targets(["model.layers.0.q"], {}, ["model.layers.0.q", "layers.0.q"])
    assert matched(patterns, "model.layers.0.q") == 1
    assert not matched(patterns, "layers.0.q")


def test_layers_that_must_keep_a_weight_are_found():
    assert not unpackable(FAMILIES["clip"]())
    model = FAMILIES["llava_onevision"]()  # a SigLIP tower, a Qwen2 text model
    found = unpackable(model)
    assert "model.vision_tower.encoder.layers.0.mlp.fc1" in found
    assert not any("language_model" in name for name in found)
    assert all(module.__class__.__getattr__ is nn.Module.__getattr__ for module in model.modules())  # as it was


# The folder writer


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text('{"architectures": ["X"], "model_type": "x"}')
    (folder / "tokenizer.json").write_bytes(b'{"caf\xc3\xa9": 1}\r\n')
    (folder / "sub" / "chat_template.jinja").write_bytes(b"{{ x }}\x00\xff")
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    (folder / "README.md").write_text("the source's")
    (folder / ".hidden").write_text("no")
    save_file({"a": torch.zeros(1, dtype=torch.bfloat16)}, folder / "model.safetensors")
    return folder


def parts():
    generator = torch.Generator().manual_seed(0)
    return {f"layer.{i}": torch.randn(10, 10 + i, generator=generator) for i in range(9)} | {
        "big": torch.randn(60, 60, generator=generator)
    }


def write(source, folder, given=None, **options):
    writer = FolderWriter(folder, source, shard_bytes=2000, **options)
    for name, tensor in (given or parts()).items():
        writer.add(name, tensor)
    left = writer.finish({"quantization_config": {"x": 1}}, "the card\n")
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}, left


def test_a_folder_is_whole_and_its_bytes_are_the_same_each_time(source, tmp_path):
    files, left = write(source, tmp_path / "a")
    assert files == write(source, tmp_path / "b")[0]
    assert left == ("pytorch_model.bin",)
    assert files["tokenizer.json"] == (source / "tokenizer.json").read_bytes()
    assert files["chat_template.jinja"] == (source / "sub" / "chat_template.jinja").read_bytes()
    assert files["README.md"] == b"the card\n"
    config = json.loads(files["config.json"])
    assert config == {
        "architectures": ["X"],
        "model_type": "x",
        "dtype": "bfloat16",
        "quantization_config": {"x": 1},
    }
    index = json.loads(files["model.safetensors.index.json"])
    shards = {name for name in files if name.endswith(".safetensors")}
    assert shards == set(index["weight_map"].values())
    assert set(files) == {
        *shards,
        *("README.md", "config.json", "chat_template.jinja", "tokenizer.json", "model.safetensors.index.json"),
    }
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in parts().values())
    for name, tensor in parts().items():
        assert torch.equal(load_file(tmp_path / "a" / index["weight_map"][name])[name], tensor)
    sizes = {shard: sum(t.nbytes for t in load_file(tmp_path / "a" / shard).values()) for shard in shards}
    assert [shard for shard, size in sizes.items() if size > 2000] == [index["weight_map"]["big"]]
    assert len(shards) > 3


def test_one_shard_needs_no_index(source, tmp_path):
    files, _ = write(source, tmp_path / "a", {"a": torch.ones(3)})
    assert "model.safetensors" in files
    assert "model.safetensors.index.json" not in files


def test_no_more_than_a_shard_is_held(source, tmp_path):
    writer = FolderWriter(tmp_path / "a", source, shard_bytes=2000)
    held = []
    for name, tensor in parts().items():
        writer.add(name, tensor)
        held.append(sum(t.untyped_storage().nbytes() for t in writer._waiting.values()))
    assert max(held[:-1]) <= 2000
    assert len(writer.shards) >= 3
    assert all(shard.is_file() for shard in writer.shards)


def test_a_tensor_may_change_once_it_is_added(source, tmp_path):
    writer = FolderWriter(tmp_path / "a", source)
    wide = torch.ones(4, 100)
    writer.add("view", wide[:, :2])
    wide.zero_()
    writer.finish({}, "")
    assert torch.equal(load_file(tmp_path / "a" / "model.safetensors")["view"], torch.ones(4, 2))


@pytest.mark.parametrize("killed_after", [3, 5, 9])
def test_a_killed_run_goes_on_to_the_same_bytes(source, tmp_path, killed_after):
    whole, _ = write(source, tmp_path / "whole")
    first = FolderWriter(tmp_path / "work", source, shard_bytes=2000)
    for name, tensor in list(parts().items())[:killed_after]:
        first.add(name, tensor)
    second = FolderWriter(tmp_path / "work", source, shard_bytes=2000, finished=first.shards)
    for name, tensor in parts().items():
        second.add(name, torch.full_like(tensor, torch.nan) if name in second else tensor)
    second.finish({"quantization_config": {"x": 1}}, "the card\n", into=tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == whole
    assert len(list((tmp_path / "work").iterdir())) == len(second.shards)  # the pieces stay until the caller lets go


def test_what_the_writer_refuses(source, tmp_path):
    writer = FolderWriter(tmp_path / "a", source)
    with pytest.raises(InputError, match="Not one tensor"):
        writer.finish({}, "")
    writer.add("a", torch.ones(1))
    with pytest.raises(InputError, match="added twice"):
        writer.add("a", torch.ones(1))
    (source / "extra").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InputError, match="extra is a pickle"):
        writer.finish({}, "")
    (source / "extra").unlink()
    torch.save({"a": 1}, source / "vocabulary.dat")
    with pytest.raises(InputError, match=r"vocabulary\.dat is a pickle"):
        writer.finish({}, "")
    (source / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    with pytest.raises(InputError, match="quantised already"):
        FolderWriter(tmp_path / "b", source)
    (source / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"no readable config\.json"):
        FolderWriter(tmp_path / "b", source)
    (tmp_path / "damaged").write_bytes(b"\x00" * 20)
    (source / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="damaged"):
        FolderWriter(tmp_path / "b", source, finished=[tmp_path / "damaged"])


def test_the_card():
    text = card(
        "A model\nof two lines",
        base="someone/model-7b",
        command="triptych compress model --keep 99%  # ```",
        recipe={"size": "25%", "methods": ["gptq"]},
        data="96 rows",
        data_sha256="ab" * 32,
        rows=[("bytes", "10 MB", "2 MB"), ("accuracy | image", "91.8%", "91.5%")],
        dense={"lm_head": "shares its weight", "m.0.gate": "a router", "m.1.gate": "a router"},
        usage="print(1)",
        license="apache-2.0",
    )
    assert text.startswith(
        "---\nbase_model: someone/model-7b\nbase_model_relation: quantized\nlibrary_name: transformers\n"
    )
    assert "# A model of two lines\n" in text
    assert "| accuracy \\| image | 91.8% | 91.5% |" in text
    assert "````sh\ntriptych compress model --keep 99%  # ```\n````" in text
    assert "ab" * 32 in text
    assert "- a router: `m.*.gate` (2)" in text
    assert "- shares its weight: `lm_head`" in text
    assert "size: 25%\nmethods:\n- gptq" in text
    local = card("n", base="./models/x", command="c", recipe={}, data="d", data_sha256="0", rows=[], dense={})
    assert "base_model" not in local
    assert "license" not in local
    assert "Nothing." in local


# Released readers

PLANS = {
    "w4g32": Grid(bits=4, group=32),
    "w3g32": Grid(bits=3, group=32),
    "w2g32": Grid(bits=2, group=32),
    "w8": Grid(bits=8),
    "w8 asymmetric": Grid(bits=8, group=16, symmetric=False),
    "w8a8": Grid(bits=8),
    "fp8": None,
}


def rounded(weight, plan, plain):
    """A weight rounded as a plan says, how it is stored, and what it stands for."""
    if plan == "fp8":
        item = fp8(weight)
        return item, stored(item), item.restored()
    grid = PLANS.get(plan) or Grid(bits=4, group=32, symmetric=False)
    grid = grid.model_copy(update={"group": group_for(weight.shape[1], grid.group)})
    a8 = plan == "w8a8"
    scheme = LayerScheme(weight=grid, activation=8 if a8 else None, method="rtn")
    span = Range(low=-2.0, high=3.0) if a8 else None
    item = QuantizedWeight(quantize(weight, None, grid), tuple(weight.shape), scheme, span)
    return item, stored(item, plain=plain), item.restored()


def export(model, folder, plans):
    """Write a model with its linear layers rounded by `plans` in turn; rounds the model itself too."""
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder / "source")
    opened = open_folder(folder / "source")
    bare = skeleton(opened)
    weights, keep = find_weights(opened, bare), unpackable(bare)
    writer = FolderWriter(folder / "new", folder / "source", shard_bytes=100_000)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    dense = [name for name, module in linear.items() if module is model.get_output_embeddings()]
    layers, on_disk, inputs = {}, {}, {}
    for number, (name, module) in enumerate(linear.items()):
        if name in dense:
            continue
        key = weights.stored_name(f"{name}.weight")
        item, layers[name], restored = rounded(module.weight.detach(), plans[number % len(plans)], name in keep)
        on_disk[name] = key.removesuffix(".weight")
        for stored_name, tensor in tensors(key, item, format=layers[name].format).items():
            writer.add(stored_name, tensor)
        with torch.no_grad():
            module.weight.copy_(restored)
        if isinstance(item, QuantizedWeight) and item.input:
            inputs[f"{name}.weight"] = item
    apply(model, inputs)
    left = [name for name, _ in bare.named_parameters() if name.removesuffix(".weight") not in layers]
    for name in left:
        writer.add(weights.stored_name(name), weights.read(name))
    writer.finish({"quantization_config": quantization_config(layers, dense, on_disk=on_disk)}, "")
    return linear


def read(folder, inputs, *options):
    save_file(inputs, folder / "inputs.safetensors")
    command = [READER, SCRIPT, folder / "new", folder / "inputs.safetensors", folder / "outputs.safetensors"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [*command, "--weights", *options], check=False, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return load_file(folder / "outputs.safetensors")


@pytest.mark.skipif(
    not READER, reason="TRIPTYCH_READER_PYTHON names no environment of benchmarks/peers/compressed_tensors.txt"
)
@pytest.mark.parametrize(
    ("family", "plans"),
    [
        *(("clip", [plan]) for plan in PLANS),
        *((family, list(PLANS)) for family in ("llava", "whisper", "qwen2_vl", "siglip2", "mixtral", "vit")),
    ],
)
def test_released_transformers_reads_the_same_model(family, plans, tmp_path):
    model = FAMILIES[family]()
    inputs = {name: x.contiguous() for name, x in tiny_batch(model).inputs.items() if isinstance(x, torch.Tensor)}
    linear = export(model, tmp_path, plans)
    found = read(tmp_path, inputs)
    for name, module in linear.items():
        assert torch.equal(found[f"weight:{name}"], module.weight), name
    with torch.no_grad():
        expected = {k: v for k, v in model(**inputs, return_dict=True).items() if isinstance(v, torch.Tensor)}
    assert expected
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(
    not READER, reason="TRIPTYCH_READER_PYTHON names no environment of benchmarks/peers/compressed_tensors.txt"
)
def test_zero_points_are_read_where_weights_are_restored_while_loading(tmp_path):
    model = FAMILIES["clip"]()
    inputs = {name: x.contiguous() for name, x in tiny_batch(model).inputs.items()}
    linear = export(model, tmp_path, ["w4 asymmetric"])
    found = read(tmp_path, inputs, "--dequantize")
    for name, module in linear.items():  # restored in the scale's type, float16
        torch.testing.assert_close(found[f"weight:{name}"], module.weight.detach(), rtol=2e-3, atol=1e-6)

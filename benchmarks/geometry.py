"""Models of real shapes with random weights, as Hugging Face folders, and calibration tensors for them.

Speed and memory of compression depend on shapes alone, so nothing has to be downloaded. Tensors are made and written one
shard at a time: a 16 GB model needs no more memory than its largest shard.

    python -m benchmarks.geometry [--to /tmp/geometry] [--dtype bfloat16] smollm_135m smolvlm_256m ...
"""

import argparse
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.core_model_loading import revert_weight_conversion

DEVIATION = 0.02
NORMALS = 4_194_301  # a prime: no width divides it, so rows taken from a repeated buffer differ
OUTLIERS, GAIN = 4, 8.0  # channels of each normalisation whose gain is large, as in trained transformers
SHARD = 256 * 2**20  # bytes; a larger tensor has a shard to itself

SMOLLM = {
    "vocab_size": 49_280,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "rope_theta": 100_000.0,
}


def smollm_135m(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The decoder of SmolVLM-256M alone, output tied to the embedding: 135 million weights."""
    return write(folder, LlamaForCausalLM, LlamaConfig(**SMOLLM, tie_word_embeddings=True), dtype)


def smolvlm_256m(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """SmolVLM-256M: a vision tower of 12 layers at 512 px, 64 tokens an image, a decoder of 30 layers."""
    config = Idefics3Config(
        vision_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "image_size": 512,
            "patch_size": 16,
        },
        text_config=LlamaConfig(**SMOLLM),
        image_token_id=49_190,
        scale_factor=4,
        tie_word_embeddings=False,
        pad_token_id=2,
    )
    return write(folder, Idefics3ForConditionalGeneration, config, dtype)


def qwen2_vl(
    folder: Path,
    width: int,
    mlp: int,
    heads: int,
    kv_heads: int,
    dtype: torch.dtype,
    depth: tuple[int, int] = (32, 28),
    **text: object,
) -> Path:
    """Qwen2-VL: the 32-layer vision tower all sizes share, and a decoder of 28 layers, or as many as `depth` says of each."""
    config = Qwen2VLConfig(
        vision_config={"depth": depth[0], "embed_dim": 1280, "num_heads": 16, "mlp_ratio": 4, "hidden_size": width},
        text_config={
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": depth[1],
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            **text,
        },
        tie_word_embeddings=bool(text["tie_word_embeddings"]),
    )
    return write(folder, Qwen2VLForConditionalGeneration, config, dtype)


def qwen2_vl_2b(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Qwen2-VL-2B: 4.4 GB in bfloat16."""
    return qwen2_vl(folder, 1536, 8960, 12, 2, dtype, vocab_size=151_936, tie_word_embeddings=True)


def qwen2_vl_7b(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Qwen2-VL-7B: 16.6 GB in bfloat16."""
    return qwen2_vl(folder, 3584, 18_944, 28, 4, dtype, vocab_size=152_064, tie_word_embeddings=False)


def qwen2_vl_2b_short(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Qwen2-VL-2B with 4 layers in each stack: widths and vocabulary, which memory depends on, are as they were."""
    return qwen2_vl(folder, 1536, 8960, 12, 2, dtype, (4, 4), vocab_size=151_936, tie_word_embeddings=True)


def qwen2_vl_7b_short(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """Qwen2-VL-7B with 2 layers in each stack."""
    return qwen2_vl(folder, 3584, 18_944, 28, 4, dtype, (2, 2), vocab_size=152_064, tie_word_embeddings=False)


def vit_b32(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """ViT-B/32 at 224 px with 1,000 classes."""
    return write(folder, ViTForImageClassification, ViTConfig(patch_size=32, num_labels=1000), dtype)


MODELS: dict[str, Callable[..., Path]] = {
    f.__name__: f
    for f in (smollm_135m, smolvlm_256m, qwen2_vl_2b, qwen2_vl_7b, qwen2_vl_2b_short, qwen2_vl_7b_short, vit_b32)
}


def write(
    folder: Path, model_class: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype, seed: int = 0
) -> Path:
    """Write a model of this config with random weights, shard by shard; a finished folder is left as it is.

    `config.json` is written last and marks the end.
    """
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        model = model_class(config)
    shapes = stored(model)
    size = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    shards = list(split(size))
    fill = Random(dtype, seed)
    where = {}
    for number, names in enumerate(shards, 1):
        file = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: fill(name, shapes[name]) for name in names}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(size.values())}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    config.architectures = [model_class.__name__]
    config.dtype = dtype
    config.save_pretrained(folder)
    return folder


def stored(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """Shapes by the names that `save_pretrained` writes: checkpoint names, tied tensors once."""
    tied = model.all_tied_weights_keys  # the tensors that are another's second name
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return {name: tuple(tensor.shape) for name, tensor in revert_weight_conversion(model, state).items()}


def split(size: dict[str, int]) -> Iterator[list[str]]:
    """Names in order, in shards of at most SHARD bytes."""
    names: list[str] = []
    held = 0
    for name, count in size.items():
        if names and held + count > SHARD:
            yield names
            names, held = [], 0
        names.append(name)
        held += count
    if names:
        yield names


class Random:
    """Weights N(0, 0.02) cut from one buffer of normals, each tensor from where the last ended."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.normals = (torch.randn(NORMALS, generator=self.generator) * DEVIATION).to(dtype)
        self.place = 0

    def __call__(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor. Vectors are gains (ones, a few of them large) or biases (zeros)."""
        if len(shape) == 1:
            made = torch.full(shape, float(name.endswith("weight")), dtype=self.normals.dtype)
            if name.endswith("weight"):
                made[torch.randperm(shape[0], generator=self.generator)[:OUTLIERS]] = GAIN
            return made
        count = math.prod(shape)
        made = torch.empty(count, dtype=self.normals.dtype)
        done = 0
        while done < count:
            part = self.normals[self.place : self.place + count - done]
            made[done : done + len(part)] = part
            done += len(part)
            self.place = (self.place + len(part)) % NORMALS
        return made.view(shape)


def tokens(file: Path, *, samples: int = 32, length: int = 256, vocabulary: int = 49_280, seed: int = 0) -> Path:
    """Random token ids as calibration tensors: input_ids and attention_mask, "samples length"."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(vocabulary, (samples, length), generator=generator)
    return keep(file, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def pictures(file: Path, folder: Path, *, samples: int = 4, length: int = 256, side: int = 224, seed: int = 0) -> Path:
    """Random images, with random text behind them where the model reads text; every first dimension is samples.

    Qwen2-VL flattens its images: its pixel_values are "samples patches values" here, and a batch joins the first two.

    Raises:
        ValueError: A model type whose inputs are not known here.
    """
    config = transformers.AutoConfig.from_pretrained(folder)
    generator = torch.Generator().manual_seed(seed)
    if config.model_type == "vit":
        side = config.image_size
        return keep(file, {"pixel_values": torch.randn(samples, 3, side, side, generator=generator)})
    vision = config.vision_config
    if config.model_type == "idefics3":
        side = vision.image_size
        pixels = {"pixel_values": torch.randn(samples, 1, 3, side, side, generator=generator)}
        places = (side // vision.patch_size // config.scale_factor) ** 2
    elif config.model_type == "qwen2_vl":
        cells = side // vision.patch_size
        values = 3 * vision.temporal_patch_size * vision.patch_size**2
        pixels = {
            "pixel_values": torch.randn(samples, cells**2, values, generator=generator),
            "image_grid_thw": torch.tensor([[1, cells, cells]] * samples),
        }
        places = (cells // vision.spatial_merge_size) ** 2
    else:
        raise ValueError(f"no pictures for the model type {config.model_type}")
    ids = torch.randint(config.text_config.vocab_size - 200, (samples, length), generator=generator)
    ids[ids == config.image_token_id] = 0
    ids[:, 1 : 1 + places] = config.image_token_id
    if config.model_type == "qwen2_vl":
        pixels["mm_token_type_ids"] = (ids == config.image_token_id).long()
    return keep(file, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels})


def keep(file: Path, tensors: dict[str, Tensor]) -> Path:
    """Write the tensors, and the folder they go to."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def main() -> None:
    """Write the models named, each with `calibration.safetensors` beside its folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=MODELS)
    parser.add_argument("--to", type=Path, default=Path("/tmp/geometry"))  # noqa: S108
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="Default: the model's own.")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--length", type=int, default=256, help="Tokens of a sample, an image's included.")
    asked = parser.parse_args()
    for name in asked.models:
        kind = {"dtype": getattr(torch, asked.dtype)} if asked.dtype else {}
        folder = MODELS[name](asked.to / name, **kind)
        calibration = asked.to / f"{name}.safetensors"
        size = {"samples": asked.samples, "length": asked.length}
        print(folder, tokens(calibration, **size) if name == "smollm_135m" else pictures(calibration, folder, **size))


if __name__ == "__main__":
    main()

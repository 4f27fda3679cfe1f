"""A tiny model folder of two modalities, with samples for it."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from families import FAMILIES


@pytest.fixture(scope="session")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model folder, and eight samples: seven with a picture, one of words alone."""
    folder = tmp_path_factory.mktemp("llava")
    model = FAMILIES["llava"]()
    model.save_pretrained(folder / "model")
    (folder / "model" / "tokenizer_config.json").write_text('{"kept": "byte for byte"}\n')
    (folder / "data").mkdir()
    side, patch = model.config.vision_config.image_size, model.config.vision_config.patch_size
    draw = torch.Generator().manual_seed(0)
    for number in range(8):
        ids = torch.randint(3, 60, (1, 30), generator=draw)
        inputs = {"input_ids": ids}
        if number:
            ids[:, 1 : 1 + (side // patch) ** 2] = model.config.image_token_id
            inputs["pixel_values"] = torch.randn(1, 3, side, side, generator=draw)
        safetensors.torch.save_file(inputs, folder / "data" / f"{number}.safetensors")
    return folder

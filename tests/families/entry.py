"""How a model enters the catalogue, and the widths that most of its models share."""

from collections.abc import Callable

import torch
from torch import nn
from transformers import PreTrainedModel

Build = Callable[[], PreTrainedModel]
FAMILIES: dict[str, Build] = {}

VISION = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
PIXELS = {"image_size": 16, "patch_size": 4}
WORDS = {"vocab_size": 128, "max_position_embeddings": 64, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
TEXT = {**VISION, **WORDS}
GROUPED = {**TEXT, "num_key_value_heads": 2}
ENCODER = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 128}
DECODER = {"decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
SPEECH = {"num_mel_bins": 16, "d_model": 64, "max_source_positions": 20, **ENCODER}
IMAGE, VIDEO, AUDIO = 100, 101, 102  # placeholder ids
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def family(build: Build) -> Build:
    """Enter a builder in the catalogue; the model it returns is seeded and in evaluation mode."""

    def seeded() -> PreTrainedModel:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build().eval()
            for parameter in model.parameters():  # what starts at zero would hide what moves through it
                if parameter.is_floating_point() and not parameter.detach().any():
                    nn.init.normal_(parameter, std=0.02)
        return model

    FAMILIES[build.__name__] = seeded
    return seeded

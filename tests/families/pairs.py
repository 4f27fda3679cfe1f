"""Models that compare words with images or sound, or read an image while they write."""

import transformers as hf
from transformers import PreTrainedModel

from families.entry import IMAGE, PIXELS, TEXT, VISION, WORDS, family


@family
def clip() -> PreTrainedModel:
    text = {**TEXT, "max_position_embeddings": 16}
    return hf.CLIPModel(hf.CLIPConfig(text_config=text, vision_config={**VISION, **PIXELS}, projection_dim=32))


@family
def siglip2() -> PreTrainedModel:
    odd = {"hidden_size": 72, "intermediate_size": 86, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**odd, "patch_size": 6, "num_patches": 16}
    text = {**WORDS, **odd, "max_position_embeddings": 16, "projection_size": 72}
    return hf.Siglip2Model(hf.Siglip2Config(text_config=text, vision_config=vision))


@family
def altclip() -> PreTrainedModel:
    text = {**TEXT, "project_dim": 64}
    return hf.AltCLIPModel(hf.AltCLIPConfig(text_config=text, vision_config={**VISION, **PIXELS}, projection_dim=32))


@family
def clap() -> PreTrainedModel:
    audio = {
        "window_size": 4,
        "num_mel_bins": 16,
        "spec_size": 32,
        "patch_size": 2,
        "patch_stride": 2,
        "patch_embeds_hidden_size": 32,
        "hidden_size": 64,
        "depths": [1, 1],
        "num_attention_heads": [2, 4],
        "num_hidden_layers": 2,
    }
    return hf.ClapModel(hf.ClapConfig(text_config=TEXT, audio_config=audio, projection_dim=32))


def _blip_config() -> hf.BlipConfig:
    text = {**TEXT, "encoder_hidden_size": 64, "projection_dim": 32}
    return hf.BlipConfig(text_config=text, vision_config={**VISION, **PIXELS}, projection_dim=32)


@family
def blip_retrieval() -> PreTrainedModel:
    return hf.BlipForImageTextRetrieval(_blip_config())


@family
def blip_question() -> PreTrainedModel:
    return hf.BlipForQuestionAnswering(_blip_config())


@family
def blip_caption() -> PreTrainedModel:
    return hf.BlipForConditionalGeneration(_blip_config())


QUERIES = {
    "vision_config": {**VISION, **PIXELS},
    "qformer_config": {**TEXT, "encoder_hidden_size": 64, "vocab_size": 96, "cross_attention_frequency": 1},
    "num_query_tokens": 6,
    "image_token_index": IMAGE,
}


@family
def blip2() -> PreTrainedModel:
    text = hf.OPTConfig(**{**TEXT, "ffn_dim": 128, "word_embed_proj_dim": 64})
    return hf.Blip2ForConditionalGeneration(hf.Blip2Config(text_config=text, **QUERIES))


@family
def instructblip() -> PreTrainedModel:
    text = hf.T5Config(
        vocab_size=128, d_model=64, d_ff=128, d_kv=16, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return hf.InstructBlipForConditionalGeneration(hf.InstructBlipConfig(text_config=text, **QUERIES))

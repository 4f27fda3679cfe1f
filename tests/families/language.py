"""Language models that see or hear: what they see stands in the place of placeholder ids."""

from typing import Any

import transformers as hf
from transformers import PreTrainedModel

from families.entry import (
    AUDIO,
    DECODER,
    ENCODER,
    GROUPED,
    IMAGE,
    PIXELS,
    ROPE,
    SPEECH,
    VIDEO,
    VISION,
    WORDS,
    family,
)

EXPERTS = {
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
    "head_dim": 16,
}


@family
def llava() -> PreTrainedModel:
    vision = hf.CLIPVisionConfig(**VISION, **PIXELS)
    config = hf.LlavaConfig(text_config=hf.LlamaConfig(**GROUPED), vision_config=vision, image_token_index=IMAGE)
    return hf.LlavaForConditionalGeneration(config)


@family
def llava_next() -> PreTrainedModel:
    return hf.LlavaNextForConditionalGeneration(
        hf.LlavaNextConfig(
            text_config=hf.LlamaConfig(**GROUPED),
            vision_config=hf.CLIPVisionConfig(**VISION, **PIXELS),
            image_grid_pinpoints=[[16, 16], [16, 32]],
            image_token_index=IMAGE,
        )
    )


@family
def llava_onevision() -> PreTrainedModel:
    return hf.LlavaOnevisionForConditionalGeneration(
        hf.LlavaOnevisionConfig(
            text_config=hf.Qwen2Config(**GROUPED),
            vision_config=hf.SiglipVisionConfig(**VISION, **PIXELS),
            image_grid_pinpoints=[[16, 16], [16, 32]],
            image_token_index=IMAGE,
            video_token_index=VIDEO,
        )
    )


QWEN_VISION = {"depth": 2, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN_TEXT = {**GROUPED, "rope_parameters": ROPE}
QWEN_IDS = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": 103, "vision_end_token_id": 104}


@family
def qwen2_vl() -> PreTrainedModel:
    vision = {**QWEN_VISION, "embed_dim": 64, "hidden_size": 64, "mlp_ratio": 2}
    return hf.Qwen2VLForConditionalGeneration(hf.Qwen2VLConfig(text_config=QWEN_TEXT, vision_config=vision, **QWEN_IDS))


QWEN25_VISION = {
    **QWEN_VISION,
    "hidden_size": 64,
    "intermediate_size": 96,
    "out_hidden_size": 64,
    "window_size": 16,
    "fullatt_block_indexes": [1],
}


@family
def qwen2_5_vl() -> PreTrainedModel:
    config = hf.Qwen2_5_VLConfig(text_config=QWEN_TEXT, vision_config=QWEN25_VISION, **QWEN_IDS)
    return hf.Qwen2_5_VLForConditionalGeneration(config)


QWEN3_VISION = {
    **QWEN_VISION,
    "hidden_size": 64,
    "intermediate_size": 86,
    "out_hidden_size": 64,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0],
}


@family
def qwen3_vl() -> PreTrainedModel:
    text = {**QWEN_TEXT, "head_dim": 16}
    config = hf.Qwen3VLConfig(text_config=text, vision_config=QWEN3_VISION, **QWEN_IDS)
    return hf.Qwen3VLForConditionalGeneration(config)


@family
def qwen3_vl_moe() -> PreTrainedModel:
    config = hf.Qwen3VLMoeConfig(text_config={**QWEN_TEXT, **EXPERTS}, vision_config=QWEN3_VISION, **QWEN_IDS)
    return hf.Qwen3VLMoeForConditionalGeneration(config)


@family
def mixtral() -> PreTrainedModel:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2))


def _shuffled() -> dict[str, Any]:
    vision = {**VISION, **PIXELS}
    return {
        "text_config": hf.LlamaConfig(**GROUPED),
        "vision_config": vision,
        "image_token_id": IMAGE,
        "scale_factor": 2,
    }


@family
def idefics3() -> PreTrainedModel:
    return hf.Idefics3ForConditionalGeneration(hf.Idefics3Config(**_shuffled()))


@family
def smolvlm() -> PreTrainedModel:
    return hf.SmolVLMForConditionalGeneration(hf.SmolVLMConfig(**_shuffled()))


@family
def paligemma() -> PreTrainedModel:
    text = hf.GemmaConfig(**GROUPED, head_dim=16)
    vision = hf.SiglipVisionConfig(**VISION, **PIXELS, vision_use_head=False, projection_dim=64)
    config = hf.PaliGemmaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE, projection_dim=64)
    return hf.PaliGemmaForConditionalGeneration(config)


@family
def internvl() -> PreTrainedModel:
    vision = {**VISION, "image_size": [16, 16], "patch_size": [4, 4]}
    return hf.InternVLForConditionalGeneration(
        hf.InternVLConfig(
            text_config=hf.Qwen2Config(**GROUPED), vision_config=vision, image_token_id=IMAGE, image_seq_length=4
        )
    )


@family
def gemma3() -> PreTrainedModel:
    text = hf.Gemma3TextConfig(
        **GROUPED, head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    )
    vision = hf.SiglipVisionConfig(**VISION, **PIXELS, vision_use_head=False)
    config = hf.Gemma3Config(text_config=text, vision_config=vision, image_token_index=IMAGE, mm_tokens_per_image=4)
    return hf.Gemma3ForConditionalGeneration(config)


@family
def qwen2_audio() -> PreTrainedModel:
    audio = hf.Qwen2AudioEncoderConfig(**SPEECH)
    config = hf.Qwen2AudioConfig(text_config=hf.Qwen2Config(**GROUPED), audio_config=audio, audio_token_index=AUDIO)
    return hf.Qwen2AudioForConditionalGeneration(config)


@family
def qwen2_5_omni() -> PreTrainedModel:
    config = hf.Qwen2_5OmniThinkerConfig(
        text_config=QWEN_TEXT,
        vision_config=QWEN25_VISION,
        audio_config={**SPEECH, "n_window": 4, "output_dim": 64},
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        audio_token_index=AUDIO,
        vision_start_token_id=103,
        vision_end_token_id=104,
        audio_start_token_id=105,
        audio_end_token_id=106,
    )
    return hf.Qwen2_5OmniThinkerForConditionalGeneration(config)


@family
def voxtral() -> PreTrainedModel:
    audio = {**VISION, "num_mel_bins": 16, "max_source_positions": 20}
    text = {"model_type": "llama", **GROUPED}
    return hf.VoxtralForConditionalGeneration(
        hf.VoxtralConfig(audio_config=audio, text_config=text, audio_token_id=AUDIO)
    )


@family
def florence2() -> PreTrainedModel:
    stages = {"depths": [1, 1], "embed_dim": [32, 64], "num_heads": [2, 4], "num_groups": [2, 4], "window_size": 4}
    patches = {"patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1], "patch_prenorm": [False, True]}
    text = {**WORDS, "d_model": 64, **ENCODER, **DECODER}
    return hf.Florence2ForConditionalGeneration(
        hf.Florence2Config(
            text_config=text, vision_config={**stages, **patches, "projection_dim": 64}, image_token_id=IMAGE
        )
    )

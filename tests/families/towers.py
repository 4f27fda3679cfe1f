"""Models of speech, and models of images alone."""

import transformers as hf
from transformers import PreTrainedModel

from families.entry import DECODER, ENCODER, PIXELS, SPEECH, VISION, family


@family
def whisper() -> PreTrainedModel:
    decoder = {**DECODER, "max_target_positions": 16}
    ids = {"vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    never = {"suppress_tokens": None, "begin_suppress_tokens": None}
    return hf.WhisperForConditionalGeneration(hf.WhisperConfig(**SPEECH, **decoder, **ids, **never))


WAVE = {
    "conv_dim": [32, 32],
    "conv_stride": [5, 4],
    "conv_kernel": [10, 8],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}


@family
def wav2vec2() -> PreTrainedModel:
    return hf.Wav2Vec2ForCTC(hf.Wav2Vec2Config(**VISION, **WAVE, vocab_size=32, num_feat_extract_layers=2))


SPEECHT5 = {
    **WAVE,
    **ENCODER,
    **DECODER,
    "hidden_size": 64,
    "vocab_size": 96,
    "num_mel_bins": 16,
    "speech_decoder_prenet_units": 32,
    "speech_decoder_postnet_units": 32,
    "speech_decoder_postnet_layers": 2,
    "speaker_embedding_dim": 16,
}


@family
def speecht5_recognise() -> PreTrainedModel:
    return hf.SpeechT5ForSpeechToText(hf.SpeechT5Config(**SPEECHT5))


@family
def speecht5_speak() -> PreTrainedModel:
    return hf.SpeechT5ForTextToSpeech(hf.SpeechT5Config(**SPEECHT5))


@family
def vit() -> PreTrainedModel:
    return hf.ViTForImageClassification(hf.ViTConfig(**VISION, **PIXELS, num_labels=5))


@family
def detr() -> PreTrainedModel:
    backbone = hf.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], out_features=["stage2"])
    config = hf.DetrConfig(
        backbone_config=backbone, use_timm_backbone=False, d_model=64, num_queries=6, **ENCODER, **DECODER
    )
    return hf.DetrForObjectDetection(config)


@family
def segformer() -> PreTrainedModel:
    sizes = {"depths": [1, 1], "sr_ratios": [2, 1], "hidden_sizes": [32, 64], "patch_sizes": [7, 3], "strides": [4, 2]}
    heads = {"num_attention_heads": [2, 4], "mlp_ratios": [2, 2], "decoder_hidden_size": 32, "num_encoder_blocks": 2}
    return hf.SegformerForSemanticSegmentation(hf.SegformerConfig(**sizes, **heads, num_labels=5))

"""Tiny model folders with real processors, made from classes alone: a config, a tokenizer of whole words, a processor.

They hold no weights: calibration reads none, and `model_of` makes random ones.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

IMAGE, VIDEO, AUDIO = 100, 101, 102  # placeholder ids
VOCABULARY = 128
WORDS = ("what", "colour", "is", "this", "a", "red", "blue", "green", "cat", "dog", "user", "assistant", "yes", "no")
NAMED = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
TEXT = {**LAYERS, **IDS, "max_position_embeddings": 64}
PIXELS = {"image_size": 16, "patch_size": 4}
CROPPED = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
SOUND = {"feature_size": 16, "chunk_length": 2, "hop_length": 800, "n_fft": 1600}  # 40 frames of 16 mel bins
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for c in m['content'] %}"
    "{% if c['type'] == 'text' %} {{ c['text'] }}{% else %}{{ marks[c['type']] }}{% endif %}"
    "{% endfor %} </s>{% endfor %}{% if add_generation_prompt %} assistant :{% endif %}"
)


def tokenizer(marks: dict[int, str], size: int = VOCABULARY, *, framed: bool = False, **settings: Any) -> Any:
    """Whole words; `marks` are special tokens by id; `framed` puts every text between <s> and </s>."""
    fixed = {**dict(enumerate(NAMED.values())), **marks}
    words = iter([*WORDS, ":", *(f"w{i}" for i in range(size))])
    vocabulary = {fixed[i] if i in fixed else next(words): i for i in range(size)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=NAMED["unk_token"]))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made,
        **NAMED,
        additional_special_tokens=list(marks.values()),
        model_input_names=["input_ids", "attention_mask"],
        **settings,
    )


def template(**marks: str) -> str:
    """A chat template with typed parts."""
    return f"{{% set marks = {marks} %}}{TEMPLATE}"


def clip(folder: Path) -> None:
    text = {**TEXT, "max_position_embeddings": 16}
    hf.CLIPConfig(
        text_config=text, vision_config={**LAYERS, **PIXELS}, projection_dim=16, architectures=["CLIPModel"]
    ).save_pretrained(folder)
    words = tokenizer({}, framed=True, model_max_length=16)
    hf.CLIPProcessor(hf.CLIPImageProcessorPil(**CROPPED), words).save_pretrained(folder)


def siglip2(folder: Path) -> None:
    """Its processor cuts pictures into patches of 16 and pads words to 64, whatever its parts say."""
    text = {**TEXT, "projection_size": 32}
    vision = {**LAYERS, "patch_size": 16, "num_patches": 16}
    hf.Siglip2Config(text_config=text, vision_config=vision, architectures=["Siglip2Model"]).save_pretrained(folder)
    words = tokenizer({}, framed=True, model_max_length=64)
    words.model_input_names = ["input_ids"]
    hf.Siglip2Processor(hf.Siglip2ImageProcessorPil(patch_size=16), words).save_pretrained(folder)


def llava(folder: Path, chat: str | None = "typed") -> None:
    hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT),
        vision_config=hf.CLIPVisionConfig(**LAYERS, **PIXELS),
        image_token_index=IMAGE,
        architectures=["LlavaForConditionalGeneration"],
    ).save_pretrained(folder)
    strings = "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] }}{% endfor %}"
    hf.LlavaProcessor(
        hf.CLIPImageProcessorPil(**CROPPED),
        tokenizer({IMAGE: "<image>"}),
        patch_size=4,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template={"typed": template(image="<image>"), "strings": strings, None: None}[chat],
    ).save_pretrained(folder)


def whisper(folder: Path) -> None:
    hf.WhisperConfig(
        **IDS,
        num_mel_bins=16,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_source_positions=20,
        max_target_positions=16,
        decoder_start_token_id=0,
        architectures=["WhisperForConditionalGeneration"],
    ).save_pretrained(folder)
    hf.WhisperProcessor(hf.WhisperFeatureExtractor(**SOUND), tokenizer({}, framed=True)).save_pretrained(folder)


def qwen2_audio(folder: Path) -> None:
    sound = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    hf.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", "num_mel_bins": 16, "max_source_positions": 20, **sound},
        text_config={"model_type": "qwen2", **TEXT, "num_key_value_heads": 2},
        audio_token_index=AUDIO,
        architectures=["Qwen2AudioForConditionalGeneration"],
    ).save_pretrained(folder)
    hf.Qwen2AudioProcessor(
        hf.WhisperFeatureExtractor(**SOUND),
        tokenizer({AUDIO: "<|AUDIO|>", 103: "<|audio_bos|>", 104: "<|audio_eos|>"}),
        chat_template=template(audio="<|AUDIO|>"),
    ).save_pretrained(folder)


def qwen2_vl(folder: Path) -> None:
    """Its processor has a video part, which only loads where torchvision is installed."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    hf.Qwen2VLConfig(
        text_config={**TEXT, "num_key_value_heads": 2, "rope_parameters": rope},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4},
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        architectures=["Qwen2VLForConditionalGeneration"],
    ).save_pretrained(folder)
    marks = {IMAGE: "<|image_pad|>", VIDEO: "<|video_pad|>"}
    tokenizer(marks).save_pretrained(folder)
    eyes = hf.Qwen2VLImageProcessorPil(
        patch_size=4, temporal_patch_size=2, merge_size=2, min_pixels=16 * 16, max_pixels=32 * 32
    )
    said = {
        "processor_class": "Qwen2VLProcessor",
        "image_processor": eyes.to_dict(),
        "video_processor": {"video_processor_type": "Qwen2VLVideoProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(said, default=str))
    (folder / "chat_template.jinja").write_text(template(image="<|image_pad|>", video="<|video_pad|>"))


def vit(folder: Path) -> None:
    hf.ViTConfig(**LAYERS, **PIXELS, architectures=["ViTForImageClassification"]).save_pretrained(folder)
    hf.ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)


def llama(folder: Path) -> None:
    hf.LlamaConfig(**TEXT, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    tokenizer({}).save_pretrained(folder)


FOLDERS: dict[str, Callable[[Path], None]] = {
    make.__name__: make for make in (clip, siglip2, llava, whisper, qwen2_audio, qwen2_vl, vit, llama)
}


def model_of(folder: Path) -> Any:
    """The model of a folder with random weights."""
    config = hf.AutoConfig.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return getattr(hf, config.architectures[0])(config).eval()

"""A small Whisper (convolutional stem, encoder, decoder) that writes down AN4's speech letter by letter.

It hears 13 MFCC, neighbouring frames averaged: 50 a second, 320 at most. 948 utterances are few for a decoder that has
to find out by itself where to listen, so training adds a CTC loss on the encoder (Watanabe et al., Hybrid
CTC/Attention, 2017), whose head is dropped afterwards, and joins short utterances into one window.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

from benchmarks.fidelity.training import finished, fit, publish
from benchmarks.packs import pack

NAME = "whisper"
FRAMES, COEFFICIENTS = 320, 13
STRIDE = 2  # of the convolutional stem
STEPS, WINDOWS = 1000, 16
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, START, END, UNKNOWN = range(4)
IGNORED = -100
LONGEST = 64  # letters and spaces of a transcript

Row = tuple[Tensor, str]  # "coefficients frames", transcript


@cache
def rows(split: str) -> list[Row]:
    """The utterances of `train` or `test`; of each coefficient its mean over the utterance is taken away."""
    with np.load(pack("an4_mfcc13.npz")) as arrays:
        features, lengths = arrays[f"{split}_feat"].astype(np.float32), arrays[f"{split}_len"]
        texts = arrays[f"{split}_text"].tolist()
        spread = torch.from_numpy(arrays["train_feat"].astype(np.float32).std(0))
    found = []
    for frames, text in zip(np.split(features, lengths.cumsum()[:-1]), texts, strict=True):
        pairs = torch.from_numpy(frames[: len(frames) // 2 * 2]).unflatten(0, (-1, 2)).mean(1)
        found.append((((pairs - pairs.mean(0)) / spread).T.contiguous()[:, :FRAMES], text))
    return found


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a letter or space."""
    letters = sorted({letter for _, text in rows("train") for letter in text})
    vocabulary = {token: place for place, token in enumerate([*SPECIAL, *letters])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[3]))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)]
    )
    roles = zip(("pad_token", "bos_token", "eos_token", "unk_token"), SPECIAL, strict=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **dict(roles))


def make() -> WhisperForConditionalGeneration:
    config = WhisperConfig(
        vocab_size=64,
        num_mel_bins=COEFFICIENTS,
        d_model=192,
        encoder_layers=3,
        encoder_attention_heads=3,
        encoder_ffn_dim=768,
        decoder_layers=2,
        decoder_attention_heads=3,
        decoder_ffn_dim=768,
        max_source_positions=FRAMES // STRIDE,
        max_target_positions=128,
        dropout=0.1,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return WhisperForConditionalGeneration(config)


def save(model: WhisperForConditionalGeneration, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def load() -> WhisperForConditionalGeneration:
    return WhisperForConditionalGeneration.from_pretrained(train()).eval()


def heard(features: list[Tensor]) -> Tensor:
    """Utterances as the encoder reads them, silence (the mean) behind each: "rows coefficients frames"."""
    return torch.stack([functional.pad(one, (0, FRAMES - one.shape[1])) for one in features])


def spelled(texts: list[str]) -> tuple[Tensor, Tensor]:
    """What the decoder reads, and what it should say next (-100 behind the end)."""
    ids = tokenizer()(texts, padding=True, return_tensors="pt")["input_ids"]
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == PAD, IGNORED)
    return ids[:, :-1], labels


def window(draw: np.random.Generator) -> Row:
    """One utterance, or some that fit one behind the other, each a little faster or slower and with parts masked."""
    source, room = rows("train"), FRAMES
    parts: list[Tensor] = []
    words: list[str] = []
    while not parts or draw.random() < 0.7:
        features, text = source[draw.integers(len(source))]
        length = min(int(features.shape[1] * draw.uniform(0.9, 1.1)), FRAMES)
        if length > room:
            break
        parts.append(functional.interpolate(features[None], size=length, mode="linear")[0])
        words.append(text)
        room -= length
    joined = torch.cat(parts, 1)
    for _ in range(2):
        begin, width = draw.integers(joined.shape[1]), draw.integers(16)
        joined[:, begin : begin + width] = 0
    begin, width = draw.integers(COEFFICIENTS), draw.integers(4)
    joined[begin : begin + width] = 0
    return joined, " ".join(words)


def train(seed: int = 0) -> Path:
    """Train the model, or find it."""
    if (folder := finished(NAME)) is not None:
        return folder
    torch.manual_seed(seed)
    model, draw = make(), np.random.default_rng(seed)
    ctc = nn.Linear(model.config.d_model, model.config.vocab_size)

    def loss(step: int) -> Tensor:  # noqa: ARG001
        features, texts = zip(*(window(draw) for _ in range(WINDOWS)), strict=True)
        read, labels = spelled(list(texts))
        out = model(input_features=heard(list(features)), decoder_input_ids=read)
        said = functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
        scores = ctc(out.encoder_last_hidden_state).log_softmax(-1).transpose(0, 1)
        frames = torch.tensor([-(-one.shape[1] // STRIDE) for one in features])
        letters = (read[:, 1:] != PAD).sum(1)
        aligned = functional.ctc_loss(scores, read[:, 1:], frames, letters, blank=PAD, zero_infinity=True)
        return said + aligned

    both = nn.ModuleList([model, ctc])
    facts = {"seed": seed, **fit(both, loss, steps=STEPS)}
    return publish(NAME, lambda stage: save(model, stage), facts)


@torch.no_grad()
def transcribe(model: Any, features: Tensor) -> list[str]:
    """Greedy transcripts of "rows coefficients frames"."""
    encoded = model.get_encoder()(features)
    said, cache = torch.full((len(features), 1), START), None
    while said.shape[1] < LONGEST and not (said == END).any(1).all():
        out = model(encoder_outputs=encoded, decoder_input_ids=said[:, -1:], past_key_values=cache, use_cache=True)
        said, cache = torch.cat([said, out.logits[:, -1:].argmax(-1)], 1), out.past_key_values
    ended = (said == END).cumsum(1) > 0
    return tokenizer().batch_decode(said.masked_fill(ended, END), skip_special_tokens=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train()

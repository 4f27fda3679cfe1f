"""A small CLIP that learns Flickr8k's photos and their captions."""

import csv
import gzip
import io
import zipfile
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, PreTrainedTokenizerFast

from benchmarks.fidelity.training import finished, fit, publish
from benchmarks.packs import pack

NAME = "clip"
STORED, SIDE, PATCH = 144, 80, 16
WORDS, LONGEST = 2048, 24  # subwords in all, and of one caption
STEPS, PAIRS = 450, 128
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
PAD, UNKNOWN, START, END = range(4)

Row = tuple[str, tuple[str, ...]]  # the image's name, its captions


@cache
def rows(split: str) -> list[Row]:
    """The photos of `train` or `test` (the official dev and test together), in the order of their names."""
    with zipfile.ZipFile(pack("flickr8k_144webp.zip")) as archive:
        names = gzip.decompress(archive.read(f"split_{split}.txt.gz")).decode().split()
        table = csv.DictReader(io.StringIO(gzip.decompress(archive.read("captions.txt.gz")).decode()))
        captions = defaultdict(list)
        for line in table:
            captions[line["image"]].append(line["caption"])
    return [(name.removesuffix(".jpg"), tuple(captions[name])) for name in sorted(names)]


@cache
def photos(split: str) -> list[Image.Image]:
    """The photos of a split, 144 x 144."""
    with zipfile.ZipFile(pack("flickr8k_144webp.zip")) as archive:
        return [Image.open(io.BytesIO(archive.read(f"{name}.webp"))).convert("RGB") for name, _ in rows(split)]


def image_processor() -> CLIPImageProcessorPil:
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size=side, crop_size=side)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-pair encoding of the training captions in lower case."""
    inner = Tokenizer(models.BPE(unk_token=SPECIAL[1]))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    captions = [caption for _, captions in rows("train") for caption in captions]
    inner.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=WORDS, special_tokens=[*SPECIAL]))
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", START), ("</s>", END)]
    )
    roles = zip(("pad_token", "unk_token", "bos_token", "eos_token"), SPECIAL, strict=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=LONGEST, **dict(roles))


def make() -> CLIPModel:
    vision = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": SIDE,
        "patch_size": PATCH,
    }
    text = {
        "vocab_size": WORDS,
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": LONGEST,
        "pad_token_id": PAD,
        "bos_token_id": START,
        "eos_token_id": END,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=192))


def save(model: CLIPModel, folder: Path) -> None:
    model.save_pretrained(folder)
    CLIPProcessor(image_processor(), tokenizer()).save_pretrained(folder)


def load() -> CLIPModel:
    return CLIPModel.from_pretrained(train()).eval()


def read(captions: list[str]) -> dict[str, Tensor]:
    """Captions as the text tower reads them: `input_ids` and `attention_mask`."""
    found = tokenizer()(captions, padding=True, truncation=True, return_tensors="pt", return_token_type_ids=False)
    return dict(found)


def pixels(pictures: list[Image.Image]) -> Tensor:
    """Photos as the vision tower reads them: "images 3 80 80"."""
    return torch.from_numpy(np.stack(image_processor()(pictures, return_tensors="np")["pixel_values"]))


def train(seed: int = 0) -> Path:
    """Train the model, or find it."""
    if (folder := finished(NAME)) is not None:
        return folder
    torch.manual_seed(seed)
    model, draw = make(), np.random.default_rng(seed)
    stored = torch.from_numpy(np.stack([np.asarray(photo) for photo in photos("train")])).permute(0, 3, 1, 2)
    captions = [captions for _, captions in rows("train")]
    order = np.concatenate([draw.permutation(len(stored)) for _ in range(1 + STEPS * PAIRS // len(stored))])
    target = torch.arange(PAIRS)

    def loss(step: int) -> Tensor:
        chosen = order[step * PAIRS : (step + 1) * PAIRS]
        words = [captions[row][draw.integers(len(captions[row]))] for row in chosen]
        with torch.no_grad():
            model.logit_scale.clamp_(max=np.log(100.0))
        scores = model(pixel_values=cropped(stored[chosen], draw), **read(words)).logits_per_image
        return (functional.cross_entropy(scores, target) + functional.cross_entropy(scores.T, target)) / 2

    facts = {"seed": seed, **fit(model, loss, steps=STEPS, decay=0.2)}
    return publish(NAME, lambda stage: save(model, stage), facts)


def cropped(photos: Tensor, draw: np.random.Generator) -> Tensor:
    """A window of each photo, mirrored or not, at the model's size and in its normalisation."""
    side = int(draw.integers(100, STORED + 1))
    corners = draw.integers(STORED - side + 1, size=(len(photos), 2))
    windows = torch.stack([p[:, y : y + side, x : x + side] for p, (y, x) in zip(photos, corners, strict=True)])
    windows = torch.where(torch.from_numpy(draw.random((len(photos), 1, 1, 1)) < 0.5), windows.flip(-1), windows)
    small = functional.interpolate(windows.float(), (SIDE, SIDE), mode="bilinear", antialias=True) / 255
    processor = image_processor()
    mean, spread = (torch.tensor(v)[:, None, None] for v in (processor.image_mean, processor.image_std))
    return (small - mean) / spread


if __name__ == "__main__":
    torch.set_num_threads(1)
    train()

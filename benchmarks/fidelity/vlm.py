"""A small LLaVA (CLIP vision tower, two-layer connector, Llama decoder) that answers easy-VQA's questions.

The image becomes 36 tokens; the answer is one token after the question. In training all questions of an image stand in
one row behind it, and a mask lets each see the image and itself alone: the same as one question a row, at a fifth of
the work. The vision tower first learns colours and shapes by themselves, as LLaVA's comes from CLIP.
"""

import gzip
import json
import zipfile
from collections import Counter, defaultdict
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from benchmarks.fidelity.training import finished, fit, publish
from benchmarks.packs import pack

NAME = "vlm"
SIDE, PATCH = 48, 8
TOKENS = (SIDE // PATCH) ** 2
SPECIAL = ("<pad>", "<unk>", "<image>")
QUESTIONS = 6  # of one image in one row of training
TOWER_STEPS, TOWER_IMAGES = 400, 64
STEPS, IMAGES = 500, 16
IGNORED = -100

Row = tuple[str, str, int]  # question, answer, image number


@cache
def rows(split: str) -> list[Row]:
    """The questions of `train` or `test`."""
    with zipfile.ZipFile(pack("easyvqa.zip")) as archive:
        return [(q, a, i) for q, a, i in json.loads(gzip.decompress(archive.read(f"{split}/questions.json.gz")))]


@cache
def images(split: str) -> Tensor:
    """All images of a split as the model reads them: float, "images 3 48 48"."""
    with zipfile.ZipFile(pack("easyvqa.zip")) as archive:
        count = 1 + max(number for _, _, number in rows(split))
        pictures = [Image.open(BytesIO(archive.read(f"{split}/{n}.png"))).convert("RGB") for n in range(count)]
    return torch.from_numpy(np.stack(image_processor()(pictures, return_tensors="np")["pixel_values"]))


def image_processor() -> CLIPImageProcessorPil:
    side = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size=side, crop_size=side)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, question marks apart; the words are those of the training questions and answers."""
    words = Counter(word for q, a, _ in rows("train") for word in [*q.replace("?", " ?").split(), a])
    vocabulary = {word: place for place, word in enumerate([*SPECIAL, *sorted(words)])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    roles = dict(zip(("pad_token", "unk_token"), SPECIAL, strict=False))
    picture = {"image_token": "<image>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, extra_special_tokens=picture, padding_side="left", **roles)


def make() -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=SIDE,
        patch_size=PATCH,
    )
    text = LlamaConfig(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer().convert_tokens_to_ids("<image>"),
        image_seq_length=TOKENS,
        vision_feature_layer=-1,
        tie_word_embeddings=False,
    )
    return LlavaForConditionalGeneration(config)


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor(),
        tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)


def load() -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(train()).eval()


def ids(question: str) -> list[int]:
    found: list[int] = tokenizer()(question)["input_ids"]
    return found


def packed(numbers: list[int], questions: dict[int, list[Row]], draw: np.random.Generator) -> dict[str, Tensor]:
    """Some questions of each image in one row behind it, each blind to the others."""
    picture = tokenizer().convert_tokens_to_ids("<image>")
    columns: list[list[Tensor]] = [[], [], [], []]
    for number in numbers:
        token, owner, place, label = [picture] * TOKENS, [0] * TOKENS, list(range(TOKENS)), [IGNORED] * TOKENS
        chosen = draw.permutation(len(questions[number]))[:QUESTIONS]
        for order, which in enumerate(chosen, 1):
            question, answer, _ = questions[number][which]
            asked = ids(question)
            token += asked
            owner += [order] * len(asked)
            place += range(TOKENS, TOKENS + len(asked))
            label += [IGNORED] * (len(asked) - 1) + ids(answer)
        for column, values in zip(columns, (token, place, owner, label), strict=True):
            column.append(torch.tensor(values))
    tokens, places, owners, labels = (
        nn.utils.rnn.pad_sequence(column, batch_first=True, padding_value=empty)
        for column, empty in zip(columns, (0, 0, -1, IGNORED), strict=True)
    )
    mine = owners[:, :, None] == owners[:, None, :]
    seen = (mine | (owners[:, None, :] == 0)) & torch.ones_like(mine).tril()
    return {"input_ids": tokens, "position_ids": places, "attention_mask": seen[:, None], "labels": labels}


def train(seed: int = 0) -> Path:
    """Train the model, or find it."""
    if (folder := finished(NAME)) is not None:
        return folder
    torch.manual_seed(seed)
    model, draw = make(), np.random.default_rng(seed)
    questions = defaultdict(list)
    for row in rows("train"):
        questions[row[2]].append(row)
    pixels = images("train")

    def loss(step: int) -> Tensor:  # noqa: ARG001
        numbers = draw.integers(len(pixels), size=IMAGES).tolist()
        batch = packed(numbers, questions, draw)
        labels = batch.pop("labels")
        seen = torch.stack([moved(pixels[number], draw) for number in numbers])
        logits = model(pixel_values=seen, **batch).logits
        return functional.cross_entropy(logits[labels != IGNORED], labels[labels != IGNORED])

    tower = train_tower(model.model.vision_tower, pixels, draw)
    facts = {"seed": seed, "tower": tower, **fit(model, loss, steps=STEPS)}
    return publish(NAME, lambda stage: save(model, stage), facts)


def train_tower(tower: CLIPVisionModel, pixels: Tensor, draw: np.random.Generator) -> dict[str, Any]:
    """Teach a vision tower the answers to the questions of what shape and what colour."""
    shapes = ("circle", "rectangle", "triangle")
    named = {answer: place for place, answer in enumerate(sorted({a for _, a, _ in rows("train")} - {"yes", "no"}))}
    targets = torch.full((2, len(pixels)), IGNORED)
    for _, answer, number in rows("train"):
        if answer in named:
            targets[int(answer in shapes), number] = named[answer]
    head = nn.Linear(tower.config.hidden_size, 2 * len(named))

    def loss(step: int) -> Tensor:  # noqa: ARG001
        numbers = draw.integers(len(pixels), size=TOWER_IMAGES).tolist()
        seen = torch.stack([moved(pixels[number], draw) for number in numbers])
        scores = head(tower(seen).last_hidden_state.mean(1)).chunk(2, 1)
        losses = [
            functional.cross_entropy(said, right[numbers], ignore_index=IGNORED)
            for said, right in zip(scores, targets, strict=True)
        ]
        return losses[0] + losses[1]

    return fit(nn.ModuleList([tower, head]), loss, steps=TOWER_STEPS)


def moved(image: Tensor, draw: np.random.Generator) -> Tensor:
    """The image mirrored and shifted by up to three pixels, its edge repeated: no answer changes."""
    if draw.random() < 0.5:
        image = image.flip(-1)
    x, y = draw.integers(7, size=2)
    return functional.pad(image[None], (3, 3, 3, 3), mode="replicate")[0, :, y : y + SIDE, x : x + SIDE]


def asked(chosen: list[Row], split: str) -> dict[str, Tensor]:
    """Inputs of questions that are equally long, one a row; the answer is the token that follows the last."""
    picture = tokenizer().convert_tokens_to_ids("<image>")
    return {
        "input_ids": torch.tensor([[picture] * TOKENS + ids(q) for q, _, _ in chosen]),
        "pixel_values": images(split)[[number for _, _, number in chosen]],
    }


def text_only() -> float:
    """Accuracy of the commonest training answer to each question: what is reached without looking."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    for question, answer, _ in rows("train"):
        answers[question][answer] += 1
    test = rows("test")
    return sum(answers[q].most_common(1)[0][0] == a for q, a, _ in test) / len(test)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train()

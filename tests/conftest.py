"""A tiny table of pictures, sounds and words, and a tiny model of it, shared by the tests that need real ones."""

import csv
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from triptych.data.samples import Samples
from triptych.engines.openvino import OpenVINOEngine
from triptych.train.run import TrainedModel

ROWS = {"train": 96, "valid": 32, "test": 32}
WORDS = ("zero", "one", "two")
LABELS = ("same", "other")


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Does the word match the picture's colour and the sound's pitch? Three digits of each, told apart with ease."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for digit in range(3):
        for take in range(12):
            pixels = rng.integers(0, 60, (16, 16, 3))
            pixels[:, :, digit] += 160
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{digit}_{take}.png")
            time = np.arange(2000) / 8000
            tone = 0.5 * np.sin(2 * np.pi * (400 + 600 * digit) * time) + 0.02 * rng.standard_normal(2000)
            soundfile.write(folder / f"{digit}_{take}.wav", tone.astype(np.float32), 8000)
    first = 0
    for split, takes in (("train", range(8)), ("valid", range(8, 10)), ("test", range(10, 12))):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["picture", "sound", "word", "match", "take_id"])
            for row in range(first, first + ROWS[split]):
                digit, take = rng.integers(3), rng.choice(list(takes))
                match = row % 2 == 0
                word = WORDS[digit if match else (digit + 1 + rng.integers(2)) % 3]
                table.writerow([f"{digit}_{take}.png", f"{digit}_{take}.wav", word, LABELS[not match], f"take-{take}"])
            first += ROWS[split]
    (folder / "schema.yaml").write_text("word: text\nmatch: category:target\ntake_id: category:group\n")
    return folder


@pytest.fixture(scope="session")
def tiny_recipe():
    from triptych.recipe import Recipe, parse

    content = {
        "model": {
            "inputs": {
                "picture": {"features": {"size": 16}, "encoder": {"name": "cnn", "widths": [8, 16], "blocks": [1, 2]}},
                "sound": {"features": {"mels": 16}, "encoder": {"name": "cnn", "widths": [8, 16], "blocks": [1, 1]}},
                "word": {"features": {"level": "character"}, "encoder": {"name": "rnn", "hidden": 8}},
            },
            "fusion": {"name": "bilinear", "width": 16, "rank": 16},
            "task": {"hidden": 16},
        },
        "train": {"steps": 30, "batch_size": 32, "modality_dropout": 0.1, "evaluate_every": 10},
    }
    return parse(Recipe, content, "the tiny recipe")


@pytest.fixture(scope="session")
def tiny_trained(tiny_data: Path, tiny_recipe, tmp_path_factory: pytest.TempPathFactory):
    """The tiny model, trained for a moment and published."""
    from triptych.train.run import train_recipe

    recipe = tiny_recipe.model_copy(update={"data": tiny_recipe.data.model_copy(update={"path": str(tiny_data)})})
    return train_recipe(recipe, tmp_path_factory.mktemp("tiny_model") / "model")


@dataclass
class Matched:
    """Pictures and sounds of three digits that belong together, and a model that retrieves one by the other."""

    folder: Path
    trained: TrainedModel

    def samples(self, split: str) -> Samples:
        loaded, splits = self.trained.loaded, self.trained.splits
        return Samples(splits.table(split), loaded.processor, splits.schema)

    @property
    def engine(self) -> OpenVINOEngine:
        first = self.samples("test").batch([0, 1])
        return OpenVINOEngine(self.trained.loaded.model, (first.inputs, first.presence))


@pytest.fixture(scope="session")
def matched(tiny_data: Path, tiny_recipe, tmp_path_factory: pytest.TempPathFactory) -> Matched:
    from triptych.train.run import train_recipe

    folder = tmp_path_factory.mktemp("matched")
    for file in [*tiny_data.glob("*.png"), *tiny_data.glob("*.wav")]:
        shutil.copy(file, folder)
    for split, takes in (("train", range(8)), ("valid", range(8, 10)), ("test", range(10, 12))):
        rows = [f"{digit}_{take}.png,{digit}_{take}.wav,{digit}" for digit in range(3) for take in takes]
        (folder / f"{split}.csv").write_text("\n".join(["picture,sound,digit", *rows]) + "\n")
    (folder / "schema.yaml").write_text("digit: identity:target\n")
    model = tiny_recipe.model
    inputs = {name: model.inputs[name] for name in ("picture", "sound")}
    update = {"inputs": inputs, "fusion": {"width": 16}, "task": {"name": "retrieve", "k": 1}}
    recipe = tiny_recipe.model_copy(
        update={
            "data": tiny_recipe.data.model_copy(update={"path": str(folder)}),
            "model": model.model_copy(update=update),
            "train": tiny_recipe.train.model_copy(update={"steps": 60, "batch_size": 24, "modality_dropout": 0.0}),
        }
    )
    return Matched(folder, train_recipe(recipe, tmp_path_factory.mktemp("matched_model") / "model"))

"""A table of videos, from training to a judged, compressed and exported model that answers a file."""

from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from benchmarks.packs import write_tables
from benchmarks.tasks.clips import encoded
from PIL import Image

from triptych.artifact import read_manifest
from triptych.compress.gate import Contract
from triptych.compress.plan import Distil
from triptych.compress.planner import Budget
from triptych.compress.run import compress
from triptych.evaluate.predict import predict_fields
from triptych.export.verb import export_model
from triptych.recipe import Recipe, parse
from triptych.report.media import shown
from triptych.train.run import train_recipe

RECIPE = {
    "model": {
        "inputs": {
            "film": {
                "features": {"frames": 4, "size": 16, "grey": True},
                "encoder": {
                    "frame": {"widths": [8, 8], "blocks": [1, 1]},
                    "time": {"hidden": 16, "width": 16},
                    "width": 16,
                },
            }
        },
        "fusion": {"name": "concat", "width": 16},
    },
    "train": {"steps": 60, "batch_size": 16, "augment": False, "optimizer": {"name": "adamw", "lr": 0.01}},
}


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Is it getting light or dark? The middle frames of both are the same grey."""
    folder = tmp_path_factory.mktemp("films")
    rows = {"train": [], "valid": [], "test": []}
    draw = np.random.default_rng(0)
    for split, count in (("train", 48), ("valid", 16), ("test", 16)):
        for i in range(count):
            shades = np.linspace(40, 200, 8)[:: 1 - 2 * (i % 2)]
            frames = shades[:, None, None, None] + draw.uniform(-20, 20, (16, 16, 1)) + np.zeros(3)
            (folder / f"{split}_{i}.mp4").write_bytes(encoded(frames.round().astype(np.uint8)))
            rows[split].append({"film": f"{split}_{i}.mp4", "light": ("comes", "goes")[i % 2]})
    return write_tables(folder, {"film": "video", "light": "category:target"}, **rows)


def test_a_film_is_told_by_the_order_of_its_frames_through_every_verb(films, tmp_path):
    trained = train_recipe(parse(Recipe, {**RECIPE, "data": {"path": str(films)}}, "the recipe"), tmp_path / "model")
    budget = Budget(size_bytes=round(0.75 * read_manifest(tmp_path / "model").size_bytes))
    contract = Contract(keep=0.8, keep_modality=0.8)
    outcome = compress(
        trained.loaded, trained.splits, tmp_path / "small", budget=budget, contract=contract, distil=Distil(steps=8)
    )
    assert outcome.before.mean() >= 0.95
    assert not outcome.verdict.broken
    export_model(tmp_path / "small", "openvino", tmp_path / "openvino", films)
    for name, expected in (("test_0", "comes"), ("test_1", "goes")):
        assert predict_fields(tmp_path / "small", [f"film={films / name}.mp4"])["answer"] == expected


def test_the_report_shows_a_film_as_a_strip_of_five_frames(films):
    uri = shown("video", "test_0.mp4", films, "test.csv, line 2")
    strip = np.asarray(Image.open(BytesIO(b64decode(uri.split(",")[1]))).convert("L"))
    assert strip.shape == (16, 80)
    assert np.diff(strip[8, 8::16].astype(int)).min() > 10

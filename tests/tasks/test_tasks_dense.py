"""Tasks that answer over a picture, on the whole path: table, training, engines, compression, export, prediction, report."""

import json

import numpy as np
import pytest
from PIL import Image

from triptych.compress import plan as plans
from triptych.compress.gate import Contract
from triptych.compress.planner import Budget
from triptych.compress.run import compress
from triptych.data.samples import Samples
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError
from triptych.evaluate.predict import predict_fields, predict_table
from triptych.evaluate.quality import measure
from triptych.evaluate.size import size_bytes
from triptych.export.verb import export_model
from triptych.recipe import Recipe, parse
from triptych.report.build import build_report
from triptych.tasks import settled
from triptych.train.run import train_recipe

OPEN = Contract(keep=0.0, keep_modality=-100.0)
ROWS = {"train": 48, "valid": 12, "test": 12}
KINDS = ("red", "blue")
UNET = {"name": "unet", "stem": 8, "widths": [16, 24], "blocks": [1, 2], "up": [16, 16]}
TASKS = {
    "mask": {"name": "segment", "class_weights": "balanced", "dice": 0.5},
    "boxes": {"name": "detect", "hidden": 16, "threshold": 0.25},
}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Pictures of one or two coloured rectangles, and a word that says nothing: masks and boxes, as JSON lines."""
    folder, rng = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    number = 0
    for split, count in ROWS.items():
        lines = []
        for _ in range(count):
            pixels = rng.integers(90, 130, (32, 40, 3)).astype(np.uint8)
            ids, boxes = np.zeros((32, 40), dtype=np.uint8), []
            for left in (0, 20)[: rng.integers(1, 3)]:
                kind = int(rng.integers(0, 2))
                width, height = (int(side) for side in rng.integers(9, 17, 2))
                x, y = left + int(rng.integers(0, 20 - width)), int(rng.integers(0, 32 - height))
                place = np.s_[y : y + height, x : x + width]
                pixels[place] = 40
                pixels[(*place, 2 * kind)] = 230
                ids[place] = kind + 1
                boxes.append({"label": KINDS[kind], "box": [x, y, x + width, y + height]})
            Image.fromarray(pixels).save(folder / f"{number}.png")
            Image.fromarray(ids).save(folder / f"{number}_mask.png")
            row = {"photo": f"{number}.png", "word": "so", "mask": f"{number}_mask.png", "boxes": boxes}
            lines.append(json.dumps(row))
            number += 1
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    return folder


def trained(kind, data, out, *, inputs=None, encoder=UNET, **train):
    other = next(name for name in TASKS if name != kind)
    columns = {"photo": "image", "word": "text:ignore", kind: f"{kind}:target", other: f"{other}:ignore"}
    features = {"size": [32, 40], "flip": True, "rotate": 0}
    content = {
        "data": {"path": str(data), "columns": {**columns, **(inputs or {})}},
        "model": {
            "inputs": {"photo": {"features": features, "encoder": encoder}},
            "fusion": {"width": 24},
            "task": TASKS[kind],
            "target": {"classes": ["ground", *KINDS]} if kind == "mask" else {},
        },
        "train": {"steps": 120, "batch_size": 12, "optimizer": {"lr": 0.01}, "modality_dropout": 0.0, **train},
    }
    return train_recipe(parse(Recipe, content, "the recipe"), out)


@pytest.fixture(scope="module", params=TASKS)
def model(request, scenes, tmp_path_factory):
    return trained(request.param, scenes, tmp_path_factory.mktemp("dense") / "model")


def rows_of(made):
    return Samples(made.splits.table("test"), made.loaded.processor, made.splits.schema)


def test_it_learns_and_both_engines_say_the_same(model):
    samples = rows_of(model)
    batch = samples.batch(range(len(samples)))
    task, run = model.loaded.model.task, TorchEngine(model.loaded.model)
    said = run(batch.inputs, batch.presence)
    engine = OpenVINOEngine(model.loaded.model, (batch.inputs, batch.presence), threads=1)
    np.testing.assert_allclose(engine(batch.inputs, batch.presence), said, atol=2e-3)
    quality = measure(run, task, samples, batch_size=5)
    assert quality.mean() > 0.75
    assert quality.mean() > quality.mean("shuffled:photo") + 0.2
    assert np.array_equal(quality.outputs, settled(task, said))
    assert quality.metrics[task.metric] == pytest.approx(quality.mean())


def test_compressed_exported_asked_and_shown(model, scenes, tmp_path):
    samples = rows_of(model)
    budget = Budget(size_bytes=int(0.4 * size_bytes(model.loaded.folder)))
    short = plans.Distil(steps=4, batch_size=16)
    outcome = compress(model.loaded, model.splits, tmp_path / "small", budget=budget, contract=OPEN, distil=short)
    assert size_bytes(outcome.loaded.folder) <= budget.size_bytes
    batch = samples.batch(range(4))
    engine = OpenVINOEngine(outcome.loaded.model, (batch.inputs, batch.presence), outcome.loaded.quantized, threads=1)
    ours, theirs = (run(batch.inputs, batch.presence) for run in (engine, TorchEngine(outcome.loaded.model)))
    assert np.abs(ours - theirs).max() < 0.1 * theirs.std()

    export_model(outcome.loaded.folder, "openvino", tmp_path / "exported")
    read = OpenVINOEngine.read(tmp_path / "exported" / "openvino_model.xml", threads=1)
    one = samples.batch([0])
    np.testing.assert_allclose(read(one.inputs, one.presence), engine(one.inputs, one.presence), atol=1e-3)

    report = build_report(model.loaded, outcome, model.splits, title="", command="", seconds=1.0)
    names = [field.name for field in report.worst[0].fields]
    assert names == ["photo", "photo, truth", "photo, before", "photo, after"]


def test_answers_are_drawn_over_the_photo(model, scenes, tmp_path):
    answer = predict_fields(model.loaded.folder, [f"photo={scenes / '70.png'}"], tmp_path / "out")
    photo = np.asarray(Image.open(scenes / "70.png"))
    shown = np.asarray(Image.open(answer["drawn"]))
    assert shown.shape == photo.shape
    assert (shown != photo).any()
    if model.loaded.processor.target.kind == "mask":
        ids, told = (np.asarray(Image.open(file)) for file in (answer["mask"], scenes / "70_mask.png"))
        assert ids.shape == told.shape
        assert (ids == told).mean() > 0.85
    else:
        assert all(0 <= x <= 40 for box in answer["boxes"] for x in box["box"])
        assert {box["label"] for box in answer["boxes"]} <= set(KINDS)
    table = predict_table(model.loaded.folder, model.splits.table("test").source, tmp_path / "all")
    assert len(table["predictions"]) == ROWS["test"]
    assert all((tmp_path / "all" / f"{number}-drawn.png").exists() for number in range(60, 72))
    json.dumps(table)


def test_segformer_from_its_configuration(scenes, tmp_path):
    fresh = {
        "model_type": "segformer",
        "num_encoder_blocks": 2,
        "depths": [1, 1],
        "hidden_sizes": [8, 16],
        "num_attention_heads": [1, 2],
        "sr_ratios": [2, 1],
        "patch_sizes": [7, 3],
        "strides": [2, 2],
        "mlp_ratios": [2, 2],
    }
    encoder = {"name": "pretrained", "frozen": False, "scales": 2, "fresh": fresh}
    made = trained("mask", scenes, tmp_path / "model", encoder=encoder, steps=4)
    batch = rows_of(made).batch(range(3))
    said = TorchEngine(made.loaded.model)(batch.inputs, batch.presence)
    assert said.shape == (3, 16, 20, 3)
    engine = OpenVINOEngine(made.loaded.model, (batch.inputs, batch.presence), threads=1)
    np.testing.assert_allclose(engine(batch.inputs, batch.presence), said, atol=2e-3)


def test_a_word_beside_the_picture_is_its_context(scenes, tmp_path):
    made = trained("mask", scenes, tmp_path / "model", inputs={"word": "text:input"}, steps=2)
    assert made.loaded.model.fusion.onto == 0
    assert made.loaded.model.fields == ("photo", "word")


def test_an_encoder_without_a_grid_is_refused(scenes, tmp_path):
    content = {
        "data": {
            "path": str(scenes),
            "columns": {"photo": "image", "word": "text", "mask": "mask:target", "boxes": "boxes:ignore"},
        },
        "model": {"fusion": {"name": "sequence"}},
        "train": {"steps": 1},
    }
    with pytest.raises(InputError, match=r"tokens of the encoder lie on no grid over a picture of 64 x 64 pixels"):
        train_recipe(parse(Recipe, content, "the recipe"), tmp_path / "model")

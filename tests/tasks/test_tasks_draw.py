"""Pictures that are made: a square of the asked colour somewhere, from the table to the engines and the file."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.compress import plan as plans
from triptych.compress.gate import Contract
from triptych.compress.planner import Budget
from triptych.compress.quantize.layers import weights
from triptych.compress.run import compress
from triptych.data.check import check
from triptych.data.image import ImageFeatures
from triptych.data.samples import Samples
from triptych.data.schema import guess
from triptych.data.splits import read_splits
from triptych.data.table import read_table
from triptych.data.target import fit_target
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError
from triptych.evaluate.predict import predict_fields, predict_table
from triptych.evaluate.size import size_bytes
from triptych.export.verb import export_model
from triptych.recipe import Recipe, parse
from triptych.registry import build
from triptych.report.build import build_report
from triptych.report.page import render
from triptych.tasks.picturing import energy, floats, spectrum
from triptych.train.run import train_recipe

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
SIDE = 8
OPEN = Contract(keep=0.0, keep_modality=-100.0)
DRAW = {
    "name": "draw",
    "latent": 3,
    "hidden": 32,
    "style": 16,
    "channels": 16,
    "kernels": [1, 3],
    "drawings": 3,
    "energy": 0.1,
}


def square(rng, colour):
    pixels = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    top, left = rng.integers(0, SIDE - 4, 2)
    pixels[top : top + 4, left : left + 4] = COLOURS[colour]
    return pixels


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Squares of three colours on white, each somewhere else."""
    folder, rng = tmp_path_factory.mktemp("squares"), np.random.default_rng(0)
    for split, takes in (("train", 24), ("valid", 4), ("test", 4)):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["caption", "picture"])
            for colour in COLOURS:
                for take in range(takes):
                    Image.fromarray(square(rng, colour)).save(folder / f"{split}_{colour}_{take}.png")
                    table.writerow([f"a {colour} square", f"{split}_{colour}_{take}.png"])
    (folder / "schema.yaml").write_text("caption: text\npicture: image:target\n")
    return folder


def trained(data, out, size=SIDE, **task):
    content = {
        "data": {"path": str(data)},
        "model": {
            "inputs": {
                "caption": {"features": {"level": "word"}, "encoder": {"name": "rnn", "hidden": 16, "width": 16}}
            },
            "target": {"size": size},
            "fusion": {"name": "concat", "width": 16},
            "task": {**DRAW, **task},
        },
        "train": {
            "steps": 200,
            "batch_size": 24,
            "augment": False,
            "optimizer": {"lr": 0.01},
            "modality_dropout": 0.0,
        },
    }
    return train_recipe(parse(Recipe, content, "the recipe"), out)


@pytest.fixture(scope="module")
def model(squares, tmp_path_factory):
    return trained(squares, tmp_path_factory.mktemp("drawn") / "model")


@pytest.fixture(scope="module")
def drawing():
    picture = ImageFeatures(ImageFeatures.Config(size=SIDE)).state()
    return build("task", {**DRAW, "picture": picture}, 4)


def rows_of(made):
    return Samples(made.splits.table("test"), made.loaded.processor, made.splits.schema)


def test_it_draws_the_asked_colour_in_every_engine(model):
    samples = rows_of(model)
    batch = samples.batch(range(len(samples)))
    drawn = TorchEngine(model.loaded.model)(batch.inputs, batch.presence)
    task = model.loaded.model.task
    pictures = task.pixels(drawn)
    assert pictures.shape == (len(samples), 3, SIDE, SIDE, 3)
    colours = [list(COLOURS).index(caption.split()[1]) for caption in samples.table.column("caption")]
    # what is missing from white is least in the colour's own channel
    assert np.array_equal(pictures.mean((2, 3)).argmax(2), np.tile(colours, (3, 1)).T)
    wrong = np.roll(drawn, 4, axis=0)
    assert task.scores(drawn, samples.labels).mean() > task.scores(wrong, samples.labels).mean() + 0.5
    engine = OpenVINOEngine(model.loaded.model, (batch.inputs, batch.presence), threads=1)
    np.testing.assert_allclose(engine(batch.inputs, batch.presence), drawn, atol=1e-3)


def test_another_seed_draws_other_pictures(model):
    task, batch = model.loaded.model.task, rows_of(model).batch([0])
    drawn = {}
    for seed in (0, 1, 0):
        task.seed(seed)
        once = TorchEngine(model.loaded.model)(batch.inputs, batch.presence)
        assert np.array_equal(drawn.setdefault(seed, once), once)
    assert not np.allclose(drawn[0], drawn[1], atol=0.05)


def test_compressed_exported_told_and_kept(model, tmp_path):
    layers = dict.fromkeys(weights(model.loaded.model), "w8")
    keep = {width.name: width.units * 3 // 4 for width in model.loaded.model.task.widths()}
    passes = (
        plans.Prune(keep={f"task.{name}": units for name, units in keep.items()}, rows=24),
        plans.Distil(steps=40, batch_size=24),
        plans.Quantise(method="rtn", rows=24, layers=layers),
    )
    outcome = compress(
        model.loaded, model.splits, tmp_path / "small", budget=Budget(), contract=OPEN, plan=plans.Plan(passes=passes)
    )
    assert size_bytes(outcome.loaded.folder) < 0.6 * size_bytes(model.loaded.folder)
    assert outcome.after.mean() > 0.5 * outcome.before.mean()
    page = render(build_report(model.loaded, outcome, model.splits, title="squares", command="triptych"))
    assert page.count("<img") == 3 * 10  # of the ten worst: real, before and after
    export_model(outcome.loaded.folder, "openvino", tmp_path / "exported")
    batch = rows_of(model).batch([0])
    read = OpenVINOEngine.read(tmp_path / "exported" / "openvino_model.xml", threads=1)
    ours = TorchEngine(outcome.loaded.model)(batch.inputs, batch.presence)
    np.testing.assert_allclose(read(batch.inputs, batch.presence), ours, atol=0.01)


def test_pictures_are_kept_in_files(model, tmp_path):
    answer = predict_fields(model.loaded.folder, ["caption=a blue square"], tmp_path / "blue.png")
    assert answer == {"answer": "3 pictures of 8 x 8 pixels", "file": str(tmp_path / "blue.png")}
    with Image.open(answer["file"]) as image:
        assert image.size == (3 * SIDE, SIDE)
        assert np.asarray(image).reshape(-1, 3).mean(0).argmax() == 2
    with pytest.raises(InputError, match=r"blue\.png exists already"):
        predict_fields(model.loaded.folder, ["caption=a blue square"], tmp_path / "blue.png")
    with pytest.raises(InputError, match=r"is no place for a picture.*ends in \.png"):
        predict_fields(model.loaded.folder, ["caption=a blue square"], tmp_path / "blue.wav")
    told = predict_table(model.loaded.folder, model.splits.table("test").source, tmp_path / "all")
    assert told["predictions"][1]["file"] == str(tmp_path / "all" / "train-1.png")
    assert "picture" not in told["predictions"][0]


def test_what_only_training_needs_is_not_kept(drawing):
    told = torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8)
    fused = torch.randn(2, 4)
    drawn = drawing(fused, told)
    assert drawn.shape == (
        2,
        3 * SIDE * SIDE + 2,
    )  # and behind each picture its KL, which is no less than 0, and an energy score
    assert (drawn[:, -2] >= 0).all()
    drawing.loss(drawn, told).backward()
    assert all(p.grad is not None for p in drawing.parameters())
    assert drawing.finish() == {"posterior": False}
    assert not any("posterior" in name for name in drawing.state_dict())
    assert torch.equal(
        drawing(fused, told), drawing(fused, told)
    )  # so that a teacher and its student are asked the same
    assert not torch.equal(drawing(fused, told), drawing(fused))


def test_every_width_can_shrink(drawing):
    for width in drawing.widths():
        for member in (*width.producers, *width.consumers):
            assert drawing.state_dict()[member.parameter].shape[member.axis] == width.units * member.repeat


def test_the_energy_score_is_that_of_pairs():
    drawn, real = torch.randn(2, 3, 1, 4, 6), torch.randn(2, 1, 4, 6)
    s, told = spectrum(drawn), spectrum(real)
    slow = [
        sum(float((a - told[row]).norm()) for a in s[row]) / 3
        - sum(float((a - b).norm()) for a in s[row] for b in s[row]) / 6 / 2
        for row in range(2)
    ]
    np.testing.assert_allclose(energy(drawn, real).numpy(), slow, rtol=1e-5)
    torch.testing.assert_close(spectrum(drawn.roll((1, 2), (-2, -1))), s, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(s.square().sum(-1), drawn.square().sum((-3, -2, -1)))


def test_the_score_prefers_what_is_true(drawing):
    """Neither the mean of all that might be, nor what was not asked for."""
    rng = np.random.default_rng(1)
    wanted = [colour for colour in COLOURS for _ in range(20)]

    def some(colours):
        return np.stack([square(rng, colour).transpose(2, 0, 1) for colour in colours])

    def scored(*pictures):
        return drawing.scores(np.stack([floats(torch.from_numpy(x)).numpy() for x in pictures], axis=1), real).mean()

    real = some(wanted)
    true = scored(some(wanted), some(wanted))
    others = some(np.roll(wanted, 20))
    blurred = [np.stack([some([colour] * 20).mean(0) for colour in wanted]).astype(np.uint8) for _ in range(2)]
    assert true == pytest.approx(1.0, abs=1e-3)  # nothing but the place is left open here
    assert true > max(scored(*blurred), scored(others, others)) + 0.5
    anything = [some(rng.permutation(wanted)) for _ in range(2)]
    assert scored(*anything) == pytest.approx(0.0, abs=0.25)


def test_pictures_that_nothing_can_learn_from_are_refused(squares, tmp_path):
    rows = (squares / "train.csv").read_text().replace("train_", f"{squares}/train_").splitlines()
    (tmp_path / "noise.png").write_bytes(b"\x89PNG no picture")
    (tmp_path / "bad.csv").write_text(
        "\n".join([*rows, "a red square,noise.png", "a red square,gone.png", "a red square,"])
    )
    table = read_table(tmp_path / "bad.csv")
    report = check({"train": table}, guess(table, overrides={"caption": "text", "picture": "image:target"}))
    assert report.left_out("train") == [72, 73, 74]
    target = fit_target(table.take(range(4)), read_splits(squares).schema.target, {"size": SIDE}, {})
    with pytest.raises(InputError, match=r"bad\.csv, line 75, column picture: there is no file .*gone\.png"):
        target.encode(table.take([*range(72), 73]))


def test_the_same_caption_in_two_splits_is_no_leak(squares):
    splits = read_splits(squares)
    assert not check(splits.tables, splits.schema).of("error")


def test_sizes_and_targets_that_do_not_fit_are_refused(squares, told, tmp_path):
    with pytest.raises(InputError, match=r"A picture of 7 x 7 cannot be cut into patches of 2 x 2.*Choose a `size`"):
        trained(squares, tmp_path / "model", size=7)
    with pytest.raises(InputError, match=r"Kernels of 1, 2 have no middle"):
        trained(squares, tmp_path / "other", kernels=[1, 2])
    content = {"data": {"path": str(told)}, "model": {"task": {"name": "draw"}}, "train": {"steps": 1}}
    with pytest.raises(InputError, match=r"The task makes pictures, but the target german is a text.*image:target"):
        train_recipe(parse(Recipe, content, "the recipe"), tmp_path / "third")

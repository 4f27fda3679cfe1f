import csv
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from triptych.data.batch import Batch
from triptych.data.processor import Processor, Target
from triptych.data.samples import Samples
from triptych.data.schema import guess
from triptych.data.table import Table, read_table
from triptych.errors import ArtifactError, InputError

KINDS = {"age": "number", "town": "category", "speaker": "group", "y": "category:target"}
SETTINGS = {"photo": {"size": 8}, "clip": {"mels": 8, "seconds": 0.1}, "words": {"level": "word", "length": 4}}
HEADER = ["photo", "clip", "words", "age", "town", "speaker", "y"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        Image.fromarray(rng.integers(50, 250, (8, 8, 3)).astype(np.uint8)).save(root / f"{i}.png")
        soundfile.write(root / f"{i}.wav", rng.normal(0, 0.1, 800), 8000)
        rows.append(
            [f"{i}.png", f"{i}.wav", f"word{i} same", str(i * i), "ab"[i % 2], f"s{i % 3}", "yes" if i < 5 else "no"]
        )
    for i in range(5):
        rows[i][i] = ""  # in row i, field i is missing
    rows[11][5] = ""
    with (root / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *rows])
    return root


@pytest.fixture
def table(folder: Path) -> Table:
    return read_table(folder / "rows.csv")


@pytest.fixture
def samples(table: Table) -> Samples:
    schema = guess(table, overrides=KINDS)
    return Samples(table, Processor.fit(table, schema, SETTINGS), schema)


def test_a_batch_has_the_shapes_that_the_processor_promises(samples):
    batch = samples.batch(range(12))
    assert list(batch.inputs) == list(samples.fields) == ["photo", "clip", "words", "age", "town"]
    for name, features in samples.processor.shapes.items():
        assert batch.inputs[name].shape == (12, *features.shape)
    assert (len(samples), len(batch)) == (12, 12)
    assert batch.index.tolist() == list(range(12))


def test_a_missing_cell_is_absent_and_nothing_else(samples):
    batch = samples.batch(range(12))
    expected = torch.ones(12, 5, dtype=torch.bool)
    expected[range(5), range(5)] = False
    assert torch.equal(batch.presence, expected)
    for place, x in enumerate(batch.inputs.values()):
        absent = x.flatten(1)[~batch.presence[:, place]]
        assert not absent.any()
    others = batch.inputs["photo"][1:]
    assert (others.flatten(1).std(1) > 0).all()


def test_an_absent_cell_stays_zero_under_augmentation(samples):
    batch = samples.batch(range(5), augment=True, generator=torch.Generator().manual_seed(0))
    for place, x in enumerate(batch.inputs.values()):
        assert not x[place].any()


def test_labels_and_groups(samples):
    assert samples.processor.labels == ("no", "yes")
    assert samples.labels.tolist() == [1] * 5 + [0] * 7
    assert samples.batch([6, 0]).labels.tolist() == [0, 1]
    groups = samples.groups["speaker"]
    assert len(set(groups[:11].tolist())) == 3
    assert groups[0] == groups[3]
    assert groups[11] not in groups[:11]  # unknown: shared with nobody


def test_batches_do_not_depend_on_the_cache(table, samples):
    whole = samples.batch(range(12))
    tight = Samples(table, samples.processor, samples.schema, cache_bytes=1000)
    for rows in ([3, 4, 5], [5, 4, 3], [0, 11]):
        for name, x in tight.batch(rows).inputs.items():
            assert torch.equal(x, whole.inputs[name][rows])
        assert tight.cached_bytes <= 1000
    assert tight.cached_bytes == sum(x.nbytes for x in tight._cache.values())


def test_augmentation_is_seeded_and_leaves_the_cache_alone(samples):
    before = samples.batch(range(12))
    first, again = (samples.batch(range(12), True, torch.Generator().manual_seed(3)) for _ in range(2))
    after = samples.batch(range(12))
    for name in samples.fields:
        assert torch.equal(first.inputs[name], again.inputs[name])
        assert torch.equal(before.inputs[name], after.inputs[name])
    assert not torch.equal(first.inputs["photo"], before.inputs["photo"])
    assert not torch.equal(first.inputs["clip"], before.inputs["clip"])


def test_an_unreadable_cell_names_table_line_column_and_file(folder, samples, tmp_path):
    (tmp_path / "rows.csv").write_bytes((folder / "rows.csv").read_bytes())
    (tmp_path / "5.png").write_text("no picture")
    broken = Samples(read_table(tmp_path / "rows.csv"), samples.processor, samples.schema)
    with pytest.raises(InputError) as caught:
        broken.batch([5])
    assert str(caught.value) == (
        "rows.csv, line 7, column photo: 5.png cannot be read as an image (it is not an image). "
        "Replace the file or leave the cell empty."
    )
    with pytest.raises(InputError, match=r"rows\.csv, line 8, column photo: there is no file .*6\.png\."):
        broken.batch([6])


def test_a_number_as_target(table):
    schema = guess(table, overrides=KINDS | {"age": "number:target", "y": "ignore"})
    with pytest.raises(
        InputError, match=r"rows\.csv, line 5, column age: the cell is empty, and it is what the model learns\."
    ):
        Samples(table, Processor.fit(table, schema, SETTINGS), schema)
    filled = table.take([0, 1, 2, 4])
    samples = Samples(filled, Processor.fit(filled, schema, SETTINGS), schema)
    assert samples.processor.labels is None
    assert samples.labels.dtype == np.float32
    assert samples.batch([1, 3]).labels.tolist() == [1.0, 16.0]


def test_an_unknown_label_is_refused(table, samples):
    target = Target(name="y", kind="category", labels=("yes",))
    with pytest.raises(InputError) as caught:
        Samples(table, Processor(samples.processor.features, target), samples.schema)
    assert str(caught.value) == (
        "rows.csv, line 7, column y: the label 'no' is not among the 1 labels of the training rows. "
        "Add training rows with it or leave the row out."
    )


def test_without_a_target_there_are_no_labels(table):
    schema = guess(table, overrides=KINDS | {"y": "ignore"})
    samples = Samples(table, Processor.fit(table, schema, SETTINGS), schema)
    assert samples.labels is None
    assert samples.batch([0]).labels is None


def test_a_table_to_predict_needs_the_inputs_and_no_labels(table, samples, tmp_path):
    (tmp_path / "new.csv").write_text("photo,clip,words,age,town,y\n,,some words,3,a,\n")
    batch = Samples(read_table(tmp_path / "new.csv"), samples.processor, samples.schema).batch([0])
    assert batch.labels is None
    assert batch.presence.tolist() == [[False, False, True, True, True]]
    (tmp_path / "less.csv").write_text("photo,words,age,town\n,some words,3,a\n")
    with pytest.raises(InputError) as caught:
        Samples(read_table(tmp_path / "less.csv"), samples.processor, samples.schema)
    assert str(caught.value) == "less.csv has no column clip, which the model reads. Add it; its cells may be empty."


def test_labels_of_digits_are_in_the_order_of_numbers(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n" + "".join(f"word {i},{i % 12}\n" for i in range(24)))
    table = read_table(tmp_path / "a.csv")
    processor = Processor.fit(table, guess(table))
    assert processor.labels == tuple(str(i) for i in range(12))


@pytest.mark.parametrize("level", ["word", "character", "subword"])
def test_a_saved_processor_gives_the_same_batches(table, samples, tmp_path, level):
    processor = Processor.fit(table, samples.schema, {**SETTINGS, "words": {"level": level}})
    processor.save(tmp_path)
    again = Processor.load(tmp_path)
    assert (tmp_path / "tokenizer.json").exists() == (level == "subword")
    assert (again.labels, again.shapes, again.target) == (processor.labels, processor.shapes, processor.target)
    first, second = (Samples(table, p, samples.schema).batch(range(12)) for p in (processor, again))
    for name in samples.fields:
        assert torch.equal(first.inputs[name], second.inputs[name])
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    again.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_two_columns_of_subwords_have_two_tokenizers(tmp_path):
    (tmp_path / "a.csv").write_text("q,a\nwhat is this thing here,a thing of some kind\n" * 3)
    table = read_table(tmp_path / "a.csv")
    processor = Processor.fit(table, guess(table, overrides={"q": "text", "a": "text"}))
    processor.save(tmp_path)
    assert {file.name for file in tmp_path.glob("*.json")} == {"processor.json", "tokenizer.json", "tokenizer_2.json"}
    assert Processor.load(tmp_path).shapes == processor.shapes


def test_damaged_processors_are_refused_by_name(samples, tmp_path):
    with pytest.raises(ArtifactError) as caught:
        Processor.load(tmp_path)
    assert str(caught.value) == f"There is no {tmp_path / 'processor.json'}. Use a folder that Triptych wrote, whole."
    samples.processor.save(tmp_path)
    path = tmp_path / "processor.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "version": 9}))
    with pytest.raises(ArtifactError) as caught:
        Processor.load(tmp_path)
    assert str(caught.value) == f"{path} has version 9; this Triptych reads 1. Update Triptych."
    for damage in ("{", json.dumps({"version": 1}), json.dumps({**content, "fields": {"photo": {"kind": "smell"}}})):
        path.write_text(damage)
        with pytest.raises(ArtifactError, match=r"processor\.json is damaged \("):
            Processor.load(tmp_path)


def test_settings_that_do_not_exist_are_refused(table, samples):
    with pytest.raises(InputError) as caught:
        Processor.fit(table, samples.schema, {"foto": {}})
    assert (
        str(caught.value)
        == "There are settings for 'foto', which is no input. Inputs are: photo, clip, words, age, town."
    )
    with pytest.raises(
        InputError, match=r"The features of photo does not fit: sise is not a setting \(did you mean size\?\)"
    ):
        Processor.fit(table, samples.schema, {"photo": {"sise": 3}})


# the batch itself


def batch() -> Batch:
    return Batch(
        inputs={"a": torch.arange(8.0).view(4, 2), "b": torch.arange(4)[:, None] + 10},
        presence=torch.tensor([[True, True], [True, False], [False, True], [True, True]]),
        labels=torch.arange(4),
        index=torch.tensor([5, 6, 7, 8]),
    )


def test_select():
    some = batch().select([3, 0])
    assert some.inputs["a"].tolist() == [[6, 7], [0, 1]]
    assert (some.labels.tolist(), some.index.tolist()) == ([3, 0], [8, 5])
    assert len(some) == 2


def test_without_takes_a_field_away_and_leaves_the_batch_alone():
    whole = batch()
    less = whole.without("a")
    assert not less.inputs["a"].any()
    assert less.presence.tolist() == [[False, True], [False, False], [False, True], [False, True]]
    assert whole.inputs["a"].any()
    assert whole.presence[0, 0]
    assert torch.equal(less.inputs["b"], whole.inputs["b"])


def test_shuffled_moves_cell_and_absence_together():
    moved = batch().shuffled("b", [1, 2, 3, 0])
    assert moved.inputs["b"].flatten().tolist() == [11, 12, 13, 10]
    assert moved.presence.tolist() == [[True, False], [True, True], [False, True], [True, True]]
    assert torch.equal(moved.inputs["a"], batch().inputs["a"])
    assert moved.labels.tolist() == [0, 1, 2, 3]


def test_another_device_gets_everything():
    assert batch().to("meta").inputs["a"].device.type == "meta"
    assert batch().to("meta").presence.device.type == "meta"

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from triptych.data.check import CheckReport, check
from triptych.data.schema import guess
from triptych.data.table import read_table
from triptych.errors import InputError
from triptych.limits import Limits

HEADER = ["photo", "clip", "caption", "age", "speaker", "label"]
KINDS = {
    "photo": "image",
    "clip": "audio",
    "caption": "text",
    "age": "number",
    "speaker": "group",
    "label": "category:target",
}


class Data:
    """Twelve sound training rows and four of test, to be spoilt cell by cell."""

    def __init__(self, root: Path) -> None:
        self.root = root
        rng = np.random.default_rng(0)
        self.rows = {"train": [], "test": []}
        for i in range(24):
            split = "train" if i < 20 else "test"
            Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).save(root / f"{i}.png")
            soundfile.write(root / f"{i}.wav", rng.normal(0, 0.1, 400), 8000)
            self.rows[split].append(
                [f"{i}.png", f"{i}.wav", f"the caption {i}", str(i), f"{split}{i % 2}", "no" if i % 2 else "yes"]
            )

    def spoil(self, split: str, row: int, column: str, cell: str) -> None:
        self.rows[split][row][HEADER.index(column)] = cell

    def check(self, limits: Limits | None = None, kinds: dict[str, str] = KINDS) -> CheckReport:
        tables = {}
        for split, rows in self.rows.items():
            with (self.root / f"{split}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([HEADER, *rows])
            tables[split] = read_table(self.root / f"{split}.csv")
        return check(tables, guess(tables["train"], overrides=kinds), limits or Limits())

    def messages(self, **options) -> list[str]:
        return [str(finding) for finding in self.check(**options).findings]


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def test_good_data_gives_no_findings(data):
    report = data.check()
    assert report.findings == ()
    assert str(report) == ""
    assert report.rows == {"train": 20, "test": 4}
    assert report.classes == {"train": {"no": 10, "yes": 10}, "test": {"no": 2, "yes": 2}}
    assert report.usable("test") == [0, 1, 2, 3]
    report.raise_errors(strict=True)


def test_a_missing_file(data):
    data.spoil("train", 3, "photo", "none.png")
    report = data.check()
    assert [str(f) for f in report.findings] == [
        (
            f"error: train.csv, line 5, column photo: there is no file {data.root / 'none.png'}. "
            "Mend the path or leave the cell empty."
        )
    ]
    assert report.findings[0].code == "missing_file"
    assert report.left_out("train") == [3]
    assert len(report.usable("train")) == 19
    report.raise_errors()
    with pytest.raises(InputError, match=r"train\.csv, line 5, column photo: there is no file"):
        report.raise_errors(strict=True)


def test_several_unreadable_files_are_one_finding_with_their_lines(data):
    for i in (2, 7):
        (data.root / f"{i}.wav").write_text("these are no samples")
    (data.root / "9.wav").write_bytes(b"")
    report = data.check()
    assert [str(f) for f in report.findings] == [
        (
            "error: train.csv, lines 4, 9, 11, column clip: 3 files cannot be read. "
            "The first: train.csv, line 4, column clip: 2.wav cannot be read as sound (Format not recognised). "
            "Replace the file or leave the cell empty."
        )
    ]
    assert report.findings[0].rows == (2, 7, 9)


def test_a_nan_and_a_word_among_numbers(data):
    data.spoil("train", 0, "age", "NaN")
    data.spoil("test", 1, "age", "old")
    assert data.messages() == [
        (
            "error: train.csv, line 2, column age: NaN is not a finite number. "
            "Leave the cell empty if the value is not known."
        ),
        "error: test.csv, line 3, column age: 'old' is not a number. Mend the cell, or the column's kind.",
    ]


def test_what_is_too_large(data):
    data.spoil("train", 0, "caption", "word " * 50)
    assert data.messages(limits=Limits(text_characters=100, image_pixels=30))[-1] == (
        "error: test.csv, lines 2, 3, 4, 5, column photo: 4 cells are too large. "
        "The first: test.csv, line 2, column photo: 20.png has 6 x 6 pixels; the limit is 30 in all. "
        "Make the image smaller."
    )
    report = data.check(limits=Limits(text_characters=100))
    assert [(f.code, f.rows) for f in report.findings] == [("too_large", (0,))]


def test_silence_and_black_and_flat_images_are_warnings(data):
    soundfile.write(data.root / "1.wav", np.full(400, 0.25), 8000)
    Image.new("RGB", (6, 6), (3, 3, 3)).save(data.root / "2.png")
    Image.new("RGB", (6, 6), (200, 3, 3)).save(data.root / "3.png")
    report = data.check()
    assert [(f.level, f.code, f.rows) for f in report.findings] == [
        ("warning", "black", (2,)),
        ("warning", "constant", (3,)),
        ("warning", "silent", (1,)),
    ]
    assert report.findings[2].message == "train.csv, line 3, column clip: 1 silent sound."
    assert report.left_out("train") == []


def test_a_test_row_that_is_a_training_row_under_other_file_names(data):
    for suffix in ("png", "wav"):
        (data.root / f"copy.{suffix}").write_bytes((data.root / f"4.{suffix}").read_bytes())
    for column, cell in (("photo", "copy.png"), ("clip", "copy.wav"), ("caption", " The  Caption 4"), ("age", "4.0")):
        data.spoil("test", 2, column, cell)
    report = data.check()
    assert [str(f) for f in report.findings] == [
        "error: test.csv, line 4: the row is a training row too (train.csv, line 6). Leave it out of one of the two."
    ]
    assert report.usable("test") == [0, 1, 3]


@pytest.mark.parametrize(("age", "level"), [("number", "warning"), ("category", "note")])
def test_numbers_and_categories_alone_may_repeat(data, age, level):
    data.spoil("test", 2, "age", "4")
    kinds = {**KINDS, "photo": "image:ignore", "clip": "audio:ignore", "caption": "text:ignore", "age": age}
    found = next(f for f in data.check(kinds=kinds).findings if f.code == "row_in_training")
    assert (found.level, found.rows) == (level, (2,))
    assert data.check(kinds=kinds).usable("test") == [0, 1, 2, 3]


def test_texts_of_which_there_are_few_may_repeat_beside_no_picture(data):
    for split in ("train", "test"):
        for row in range(len(data.rows[split])):
            data.spoil(split, row, "caption", f"question {row % 2}")
    kinds = {**KINDS, "photo": "image:ignore", "clip": "audio:ignore", "age": "number:ignore"}
    found = next(f for f in data.check(kinds=kinds).findings if f.code == "row_in_training")
    assert (found.level, found.rows) == ("warning", (0, 1, 2, 3))


def test_rows_with_missing_cells_are_compared_by_the_others(data):
    for split in ("train", "test"):
        for column in ("photo", "clip", "age"):
            data.spoil(split, 1, column, "")
    data.spoil("test", 1, "caption", "the caption 1")
    assert [(f.code, f.rows) for f in data.check().of("error")] == [("row_in_training", (1,))]
    data.spoil("test", 1, "caption", "")
    data.spoil("train", 1, "caption", "")
    assert {f.code for f in data.check().of("error")} == {"empty_row"}


def test_a_shared_file_is_a_warning(data):
    data.spoil("test", 0, "photo", "5.png")
    data.spoil("test", 3, "photo", "6.png")
    assert data.messages() == [
        (
            "warning: test.csv, lines 2, 5, column photo: 2 rows with a file that training rows have too. "
            "Figures will be better than for new files: split by file."
        )
    ]


def test_a_shared_speaker_is_a_warning(data):
    data.spoil("test", 0, "speaker", "train1")
    assert data.messages() == [
        (
            "warning: test.csv, column speaker: 1 of 3 groups stand in the training rows too (train1). "
            "Figures will be better than for new groups: split by group, or say so beside them."
        )
    ]


def test_rows_that_stand_in_a_table_twice_are_a_note(data):
    data.rows["train"].append(list(data.rows["train"][0]))
    assert data.messages() == [
        "note: train.csv, line 22: 1 row with the same inputs as an earlier row. Repeated rows weigh more in training."
    ]


def test_a_label_seen_in_test_alone(data):
    data.spoil("test", 1, "label", "maybe")
    report = data.check()
    assert [str(f) for f in report.findings] == [
        (
            "error: test.csv, line 3, column label: no training row has the label 'maybe'. "
            "Add training rows with it or leave the row out."
        )
    ]
    assert report.left_out("test") == [1]


def test_missing_labels_and_missing_cells(data):
    data.spoil("train", 0, "label", "")
    data.spoil("train", 1, "photo", "")
    data.spoil("train", 1, "clip", "")
    for column in HEADER[:4]:
        data.spoil("test", 0, column, "")
    report = data.check()
    assert [(f.level, f.code, f.split, f.column, f.rows) for f in report.findings] == [
        ("note", "absent_cells", "train", "photo", ()),
        ("note", "absent_cells", "train", "clip", ()),
        ("error", "missing_label", "train", "label", (0,)),
        ("warning", "few_rows", "train", "label", ()),
        *(("note", "absent_cells", "test", column, ()) for column in HEADER[:4]),
        ("error", "empty_row", "test", None, (0,)),
    ]
    assert report.findings[0].message == "train.csv, column photo: 1 of 20 cells are empty."


def test_empty_and_constant_columns(data):
    for split in ("train", "test"):
        for row in range(len(data.rows[split])):
            data.spoil(split, row, "age", "")
            data.spoil(split, row, "caption", "same")
    report = data.check()
    assert [(f.level, f.code, f.column) for f in report.findings if f.split == "train"] == [
        ("warning", "constant_column", "caption"),
        ("warning", "empty_column", "age"),
    ]


def test_few_uneven_and_single_labels(data):
    for row in range(15):
        data.spoil("train", row, "label", "yes")
    assert "2 labels with" not in data.messages()[0]
    assert data.messages()[0].startswith(
        "warning: train.csv, column label: 1 label with fewer than 10 training rows: 'no' (3). Bring more rows"
    )
    for row in range(20):
        data.spoil("train", row, "label", "yes")
    report = data.check()
    assert [f.code for f in report.findings] == ["one_label", "unseen_label"]
    with pytest.raises(
        InputError, match=r"train\.csv, column label: there is one label alone, 'yes'\. There is nothing"
    ):
        report.raise_errors()
    data.rows["train"] = [[*row[:5], "no" if i < 10 else "yes"] for i, row in enumerate(data.rows["train"] * 7)]
    uneven = [f for f in data.check().findings if f.code == "uneven_classes"]
    assert uneven[0].message == "train.csv, column label: 'yes' has 130 training rows, 'no' has 10."


def test_length_outliers_are_a_note(data):
    soundfile.write(data.root / "6.wav", np.random.default_rng(1).normal(0, 0.1, 8000), 8000)
    data.spoil("train", 2, "caption", "word " * 100)
    assert [message.split(" (")[0] for message in data.messages()] == [
        "note: train.csv, line 8, column clip: 1 cell far longer than the others",
        "note: train.csv, line 4, column caption: 1 cell far longer than the others",
    ]


def test_numbers_as_targets(data):
    data.spoil("train", 4, "age", "many")
    data.spoil("test", 0, "age", "")
    kinds = KINDS | {"age": "number:target", "label": "ignore"}
    report = data.check(kinds=kinds)
    assert [(f.code, f.split, f.rows) for f in report.findings] == [
        ("wrong_type", "train", (4,)),
        ("missing_label", "test", (0,)),
    ]
    assert report.classes == {"train": {}, "test": {}}


def test_a_split_without_any_usable_row_stops_in_any_case(data):
    for i in range(20, 24):
        (data.root / f"{i}.png").unlink()
    with pytest.raises(
        InputError, match=r"No row of test can be used\. test\.csv, lines 2, 3, 4, 5, column photo: 4 files are"
    ):
        data.check().raise_errors()


def test_splits_need_the_same_inputs(data):
    data.check()
    train = read_table(data.root / "train.csv")
    (data.root / "other.csv").write_text("photo,label\n1.png,yes\n")
    with pytest.raises(InputError) as caught:
        check({"train": train, "test": read_table(data.root / "other.csv")}, guess(train, overrides=KINDS))
    assert str(caught.value) == "other.csv has no column clip. All splits need the same inputs."


def test_the_report_survives_json(data):
    data.spoil("test", 1, "label", "maybe")
    report = data.check()
    assert CheckReport.model_validate_json(report.model_dump_json()) == report

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triptych.data.check import CheckReport, check
from triptych.data.schema import guess
from triptych.data.table import read_table

BOX = {"label": "cat", "box": [1, 1, 5, 5]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(16):
        Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 2, (6, 8)).astype(np.uint8)).save(tmp_path / f"mask{i}.png")
    return tmp_path


def found(folder: Path, kind: str, train: list[str], test: list[str]) -> CheckReport:
    tables = {}
    for split, answers, first in (("train", train, 0), ("test", test, len(train))):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(
                [["photo", "answer"], *([f"{first + i}.png", answer] for i, answer in enumerate(answers))]
            )
        tables[split] = read_table(folder / f"{split}.csv")
    return check(tables, guess(tables["train"], overrides={"photo": "image", "answer": f"{kind}:target"}))


def said(report: CheckReport) -> list[str]:
    return [str(finding) for finding in report.findings]


def boxes(*items: dict) -> str:
    return json.dumps(items)


def test_good_boxes_are_counted_by_label(folder):
    report = found(folder, "boxes", [boxes(BOX, BOX)] * 5 + [boxes()], [boxes(BOX)])
    assert said(report) == []
    assert report.classes == {"train": {"cat": 10}, "test": {"cat": 1}}


def test_boxes_that_cannot_be_right_name_their_rows(folder):
    away = boxes(BOX, {"label": "cat", "box": [20, 1, 25, 5]})
    flat = boxes({"label": "cat", "box": [1, 1, 1, 5]})
    over = boxes({"label": "cat", "box": [-1.5, 1, 5, 6.5]})
    report = found(
        folder, "boxes", [boxes(BOX, BOX)] * 5 + [away, flat, over], [boxes({"label": "cow", "box": [0, 0, 2, 2]})]
    )
    assert said(report) == [
        (
            "error: train.csv, lines 7, 8, column answer: 2 cells hold boxes that cannot be right. The first: train.csv, line 7, "
            "column answer: the box 'cat' at [20, 1, 25, 5] lies outside the picture, which has 8 x 6 pixels. "
            "Mend the box, or leave the row out."
        ),
        (
            "warning: train.csv, line 9, column answer: 1 row with boxes that reach over the edge of the picture (by up to "
            "1.5 pixels). They are cut off at the edge. If there are many, were they drawn on pictures of another size?"
        ),
        (
            "error: test.csv, line 2, column answer: no training row has the label 'cow'. "
            "Add training rows with it or leave the row out."
        ),
    ]
    assert report.left_out("train") == [5, 6]


def test_a_mask_of_another_size_is_left_out(folder):
    Image.new("L", (4, 3)).save(folder / "mask2.png")
    Image.fromarray(np.full((6, 8), 7, np.uint8)).save(folder / "mask13.png")
    train = [f"mask{i}.png" for i in range(12)]
    report = found(folder, "mask", train, ["mask12.png", "mask13.png", "none.png"])
    assert [(f.level, f.code, f.split, f.rows) for f in report.findings] == [
        ("error", "bad_mask", "train", (2,)),
        ("error", "missing_file", "test", (2,)),
        ("warning", "unseen_label", "test", (1,)),
    ]
    assert report.findings[0].message == (
        "train.csv, line 4, column answer: the mask mask2.png has 4 x 3 pixels, its picture 8 x 6."
    )
    assert report.classes["train"] == {"0": 11, "1": 11}


def test_captions_without_words_are_left_out(folder):
    report = found(folder, "text", ["a cat", " . . .", "", "two dogs", "🐱"], ["a dog"])
    assert [(f.level, f.code, f.rows) for f in report.findings] == [
        ("error", "missing_label", (2,)),
        ("error", "no_words", (1,)),
    ]
    assert report.findings[1].message == "train.csv, line 3, column answer: 1 text without a word."
    assert report.left_out("train") == [1, 2]
    assert report.classes == {"train": {}, "test": {}}


def test_one_reference_of_several_without_words_is_enough(folder):
    report = found(folder, "text", ["a cat\none cat", "a dog\n\none dog", "a cow\n..."], ["a cat\none dog"])
    assert [(f.level, f.code, f.rows) for f in report.of("error")] == [("error", "no_words", (1, 2))]


def test_transcripts_with_characters_that_training_lacks(folder):
    report = found(folder, "text", ["SEVEN", "eight", "voil\ufffd"], ["even", "zwölf ß"])
    assert said(report) == [
        (
            "warning: train.csv, line 4, column answer: 1 text with characters that stand for none, as a wrong encoding leaves "
            "them. Save the texts as UTF-8 again, from where they were whole."
        ),
        (
            "warning: test.csv, line 3, column answer: 1 text with characters that no training row has: ' ', 'f', 'w', 'z', 'ö'. "
            "A model never writes them, and each counts as an error: write them otherwise, or add training rows."
        ),
    ]
    assert report.left_out("test") == []


def test_a_picture_with_several_captions_is_no_repeated_row(folder):
    (folder / "rows.csv").write_text("photo,caption\n0.png,a cat\n0.png,one cat\n0.png,One  cat\n")
    rows = read_table(folder / "rows.csv")
    report = check({"train": rows}, guess(rows, overrides={"photo": "image", "caption": "text:target"}))
    assert [(f.code, f.rows) for f in report.findings if f.rows] == [("duplicate_rows", (2,))]

from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from triptych.data.check import check
from triptych.data.layouts import read_layout
from triptych.data.splits import read_splits


def pictures(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((4, 4), 60).save(root / name, "JPEG")


def test_a_folder_per_split_and_class(tmp_path):
    for split, count in (("train", 11), ("val", 2), ("test", 2)):
        pictures(
            tmp_path, *(f"{split}/{wnid}/{split}_{i}.JPEG" for wnid in ("n01440764", "n01443537") for i in range(count))
        )
    splits = read_splits(tmp_path)
    assert str(splits.schema) == "file: image:input\nlabel: category:target"
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 22, "valid": 4, "test": 4}
    assert splits.table("valid").row(3) == {"file": "n01443537/val_1.JPEG", "label": "n01443537"}
    report = check(splits.tables, splits.schema)
    assert report.findings == ()
    assert report.classes["train"] == {"n01440764": 11, "n01443537": 11}


def test_pictures_in_no_class_folder_are_left_out_and_told(tmp_path):
    pictures(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "test/3.jpg", "test/4.jpg")
    tables = read_layout(tmp_path)
    assert list(tables) == ["train"]
    assert tables["train"].notes == ("test: 2 files without a class folder left out.",)


def test_sounds_too(tmp_path):
    for name in ("Train/dog/1.wav", "Train/cat/2.wav", "Validation/cat/3.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(100), 8000)
    assert {split: table.column("label") for split, table in read_layout(tmp_path).items()} == {
        "train": ["cat", "dog"],
        "valid": ["cat"],
    }


def test_a_folder_per_class_is_not_taken_for_it(tmp_path):
    pictures(tmp_path, "cat/1.jpg", "dog/2.jpg", "train/3.jpg")
    assert read_layout(tmp_path) is None
    assert set(read_splits(tmp_path).tables["train"].column("label")) <= {"cat", "dog", "train"}

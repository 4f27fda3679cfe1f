from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from triptych.data.check import check
from triptych.data.layouts import read_layout
from triptych.data.splits import read_splits


def pair(image: Path, mask: Path, size: tuple[int, int] = (8, 6)) -> None:
    for file in (image, mask):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((8, 6), 60).save(image)
    Image.fromarray(np.arange(size[0] * size[1], dtype=np.uint8).reshape(size[::-1]) % 3).save(mask)


@pytest.mark.parametrize(
    "places",
    [("{}", "{}annot"), ("images/{}", "labels/{}"), ("{}/images", "{}/masks"), ("images/{}", "annotations/{}")],
)
def test_pictures_and_masks_beside_each_other(tmp_path, places):
    for split, count in (("train", 12), ("val", 2), ("test", 2)):
        for i in range(count):
            image, mask = (tmp_path / place.format(split) / f"{split}.{i}" for place in places)
            pair(image.with_name(image.name + ".jpg"), mask.with_name(mask.name + ".png"))
    splits = read_splits(tmp_path)
    assert str(splits.schema) == "image: image:input\nmask: mask:target"
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 12, "valid": 2, "test": 2}
    image, mask = (place.format("val") for place in places)
    assert splits.table("valid").row(1) == {"image": f"{image}/val.1.jpg", "mask": f"{mask}/val.1.png"}
    report = check(splits.tables, splits.schema)
    assert report.findings == ()
    assert report.classes["train"] == {"0": 12, "1": 12, "2": 12}


def test_without_splits_and_with_gaps(tmp_path):
    for i in range(4):
        pair(tmp_path / f"images/{i}.jpg", tmp_path / f"masks/{i}.png", (8, 6) if i else (4, 3))
    (tmp_path / "masks/3.png").unlink()
    (tmp_path / "images/2.jpg").unlink()
    table = read_layout(tmp_path)[""]
    assert table.column("mask") == ["masks/0.png", "masks/1.png", None]
    assert table.notes == ("masks: 1 mask without a picture left out.",)
    report = check({"train": table}, read_splits(tmp_path).schema)
    assert [(f.code, f.rows) for f in report.of("error")] == [("missing_label", (2,)), ("bad_mask", (0,))]


def test_folders_of_text_are_no_masks(tmp_path):
    pair(tmp_path / "images/a.jpg", tmp_path / "labels/a.png")
    (tmp_path / "labels/a.png").rename(tmp_path / "labels/a.txt")
    assert read_layout(tmp_path) is None

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from triptych.data.check import check
from triptych.data.layouts import read_layout
from triptych.data.splits import read_splits
from triptych.data.target import Target
from triptych.errors import InputError

CATEGORIES = [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]


def picture(file: Path, size: tuple[int, int] = (40, 30)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise(size, 60).save(file)


def image(number: int, name: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name or f"{number:03}.jpg", **more}


def write(file: Path, images: list[Any], annotations: list[Any], **more: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, **more}))
    return file


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Two captions of each of ten training pictures, one of each of two others."""
    for split, numbers, each in (("train", range(10), 2), ("val", range(10, 12), 1)):
        for number in numbers:
            picture(tmp_path / f"{split}2017/{number:03}.jpg")
        told = [{"image_id": n, "caption": f"picture {n}, told {k}"} for n in numbers for k in range(each)]
        write(tmp_path / f"annotations/captions_{split}2017.json", [image(n) for n in numbers], told)
    return tmp_path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_layout(path)
    return str(caught.value)


def test_captions_of_a_folder_and_of_one_file(captions):
    for path in (captions, captions / "annotations/captions_train2017.json"):
        splits = read_splits(path)
        assert str(splits.schema) == "image: image:input\ncaption: text:target\nimage_id: category:group"
        assert {split: len(table) for split, table in splits.tables.items()} == {"train": 9, "valid": 1, "test": 2}
        assert check(splits.tables, splits.schema).of("error") == ()
    row = {"image": "train2017/001.jpg", "image_id": "train2017/001"}
    written, read = (read_layout(captions, target)["train"] for target in ("caption", "image_id"))
    assert written.row(1) == {**row, "caption": "picture 1, told 0\npicture 1, told 1"}
    assert written.place(1) == "captions_train2017.json, annotation 3"
    assert read.row(3) == {**row, "caption": "picture 1, told 1"}
    assert read.place(3) == "captions_train2017.json, annotation 4"


def test_boxes_become_corners_and_crowds_are_left_out(tmp_path):
    for number in range(3):
        picture(tmp_path / f"images/{number:03}.jpg")
    things = [
        {"image_id": 0, "category_id": 1, "bbox": [1, 2, 10, 20]},
        {"image_id": 0, "category_id": 7, "bbox": [5, 5, 5.5, 5], "iscrowd": 0},
        {"image_id": 1, "category_id": 7, "bbox": [0, 0, 40, 30], "iscrowd": 1},
    ]
    file = write(tmp_path / "things.json", [image(n) for n in range(3)], things, categories=CATEGORIES)
    table = read_layout(file)[""]
    assert [json.loads(cell) for cell in table.column("boxes")] == [
        [{"label": "cat", "box": [1, 2, 11, 22]}, {"label": "dog", "box": [5, 5, 10.5, 10]}],
        [],
        [],
    ]
    assert table.column("image")[2] == "images/002.jpg"
    assert table.notes == ("things.json: 1 crowd left out, which mark areas rather than things.",)
    assert str(read_splits(file).schema) == "image: image:input\nboxes: boxes:target\nimage_id: category:group"


def test_boxes_follow_pictures_that_were_shrunk(tmp_path):
    picture(tmp_path / "000.jpg", (40, 15))
    box = [{"image_id": 0, "category_id": 1, "bbox": [10, 20, 20, 8]}]
    write(tmp_path / "a.json", [image(0, width=80, height=60)], box, categories=CATEGORIES)
    table = read_layout(tmp_path / "a.json")[""]
    assert json.loads(table.column("boxes")[0])[0]["box"] == [5, 5, 15, 7]
    assert table.notes == (
        "a.json: 1 picture of another size than the annotations say; their boxes are scaled with them (the first by 0.5 x 0.25).",
    )
    write(tmp_path / "a.json", [image(0, width=15, height=40)], box, categories=CATEGORIES)
    assert refused(tmp_path / "a.json") == (
        f"{tmp_path / '000.jpg'} has 40 x 15 pixels; its boxes were drawn on 15 x 40. "
        "Turn the picture or its boxes by a quarter."
    )


def test_the_export_of_annotation_tools(tmp_path):
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "000.jpg")
        write(tmp_path / split / "_annotations.coco.json", [image(0)], [], categories=CATEGORIES)
    tables = read_layout(tmp_path)
    assert {split: table.column("image") for split, table in tables.items()} == {
        split: [f"{split}/000.jpg"] for split in ("train", "valid", "test")
    }


def test_a_picture_that_is_listed_and_absent_names_its_annotation(captions):
    (captions / "train2017/004.jpg").unlink()
    splits = read_splits(captions / "annotations/captions_train2017.json")
    found = [f for f in check(splits.tables, splits.schema).findings if f.level == "error"]
    assert [(f.code, len(f.rows)) for f in found] == [("missing_file", 1)]
    assert found[0].message.startswith("captions_train2017.json, annotation 9, column image: there is no file")


def test_of_captions_and_boxes_in_one_folder_the_target_decides(captions):
    write(captions / "annotations/instances_train2017.json", [image(0)], [], categories=CATEGORIES)
    assert refused(captions) == (
        f"{captions / 'annotations'} holds captions and boxes. Say which is the target, caption or boxes, or give one of the files, "
        f"as {captions / 'annotations/captions_train2017.json'}: its other splits come with it."
    )
    assert read_splits(captions, target="caption").schema.target.kind == "text"
    assert read_splits(captions, overrides={"boxes": "boxes:target"}).schema.target.kind == "boxes"
    assert read_splits(captions, answered=Target(name="boxes", kind="boxes")).schema.target.kind == "boxes"


def test_a_json_file_that_is_cut_off(captions):
    file = captions / "annotations/captions_val2017.json"
    file.write_text(file.read_text()[:-30])
    assert refused(captions).startswith(f"{file} is not JSON: ")


@pytest.mark.parametrize(
    ("images", "annotation", "message"),
    [
        ([{"id": 0}], {}, "a.json, image 1 has no file_name."),
        (
            [image(0)],
            {"image_id": 5, "caption": "x"},
            "a.json, annotation 1 is of image 5, which the file does not list.",
        ),
        ([image(0)], {"image_id": 0, "caption": 3}, "a.json, annotation 1 has no caption."),
        (
            [image(0)],
            {"image_id": 0, "category_id": 9, "bbox": [0, 0, 1, 1]},
            "a.json, annotation 1 is of category 9, which the file does not list.",
        ),
        ([image(0)], {"image_id": 0, "category_id": 1}, "a.json, annotation 1 has no bbox."),
        (
            [image(0)],
            {"image_id": 0, "category_id": 1, "bbox": [0, 0, 1]},
            "a.json, annotation 1: its bbox is [0, 0, 1].",
        ),
        ([image(0, "none.jpg")], {}, "holds the pictures that it names (the first is none.jpg)."),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, images, annotation, message):
    picture(tmp_path / "000.jpg")
    write(tmp_path / "a.json", images, [annotation], categories=CATEGORIES)
    assert message in refused(tmp_path / "a.json")


def test_other_json_is_no_layout(tmp_path):
    (tmp_path / "a.json").write_text('{"images": 3}')
    assert read_layout(tmp_path / "a.json") is None
    with pytest.raises(InputError, match=r"a\.json is not a table that can be read"):
        read_splits(tmp_path / "a.json")

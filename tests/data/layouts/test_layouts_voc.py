import json
from pathlib import Path

import pytest
from PIL import Image

from triptych.data.check import check
from triptych.data.layouts import read_layout
from triptych.data.splits import read_splits
from triptych.errors import InputError


def thing(name: str = "cat", box: tuple[object, ...] = (1, 1, 20, 15)) -> str:
    corners = "".join(f"<{k}>{x}</{k}>" for k, x in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>0</difficult><bndbox>{corners}</bndbox></object>"


def annotate(root: Path, name: str, *things: str, size: tuple[int, int] = (40, 30)) -> None:
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    (root / f"Annotations/{name}.xml").write_text(f"<annotation>{sides}{''.join(things)}</annotation>")


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """Twelve pictures in three lists, and a list of one class that is none of a split."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for i in range(12):
        Image.effect_noise((40, 30), 60).save(tmp_path / f"JPEGImages/{i:02}.jpg")
        annotate(tmp_path, f"{i:02}", thing(), thing("dog", (11, 11, 40, 30)))
    for split, numbers in {
        "train": range(10),
        "val": (10,),
        "test": (11,),
        "cat_train": (3,),
        "trainval": range(11),
    }.items():
        (tmp_path / f"ImageSets/Main/{split}.txt").write_text("".join(f"{i:02}\n" for i in numbers))
    return tmp_path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_layout(path)
    return str(caught.value)


def test_boxes_by_the_lists_half_open(voc):
    splits = read_splits(voc)
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 10, "valid": 1, "test": 1}
    assert str(splits.schema) == "image: image:input\nboxes: boxes:target\nimage_id: category:group"
    row = splits.table("test").row(0)
    assert (row["image"], row["image_id"]) == ("JPEGImages/11.jpg", "11")
    assert json.loads(row["boxes"]) == [
        {"label": "cat", "box": [0, 0, 20, 15]},
        {"label": "dog", "box": [10, 10, 40, 30]},
    ]
    report = check(splits.tables, splits.schema)
    assert report.of("error") == ()
    assert report.classes["train"] == {"cat": 10, "dog": 10}


def test_trainval_is_for_training_where_no_other_list_is(voc):
    (voc / "ImageSets/Main/train.txt").unlink()
    (voc / "ImageSets/Main/val.txt").unlink()
    assert {split: len(table) for split, table in read_splits(voc).tables.items()} == {
        "train": 10,
        "valid": 1,
        "test": 1,
    }


def test_a_year_in_the_folder_that_it_unpacks_to(voc, tmp_path_factory):
    kit = tmp_path_factory.mktemp("kit") / "VOCdevkit"
    kit.mkdir()
    voc.rename(kit / "VOC2007")
    for path in (kit, kit.parent):
        assert read_layout(path)["test"].row(0)["image"] == "JPEGImages/11.jpg"
    (kit / "VOC2012/Annotations").mkdir(parents=True)
    (kit / "VOC2012/Annotations/a.xml").write_text("<annotation/>")
    assert refused(kit) == (
        f"{kit} holds 2 sets of annotations ({kit / 'VOC2007'}, {kit / 'VOC2012'}). Give one of them."
    )


def test_boxes_follow_pictures_that_were_shrunk(voc):
    annotate(voc, "11", thing(box=(1, 11, 80, 60)), size=(80, 60))
    table = read_layout(voc)["test"]
    assert json.loads(table.column("boxes")[0]) == [{"label": "cat", "box": [0, 5, 40, 30]}]
    assert table.notes == (
        "test.txt: 1 picture of another size than the annotations say; their boxes are scaled with them (the first by 0.5 x 0.5).",
    )


def test_without_lists_all_annotations_are_rows(voc):
    for file in (voc / "ImageSets/Main").iterdir():
        file.unlink()
    assert sum(map(len, read_splits(voc).tables.values())) == 12
    assert read_layout(voc)[""].place(11) == "Annotations, file 12"


def test_boxes_outside_and_missing_files_name_their_rows(voc):
    annotate(voc, "01", thing(box=(50, 1, 60, 9)))
    annotate(voc, "02", thing(box=(5, 5, 4, 9)))
    annotate(voc, "03", thing(box=("nan", 1, 60, 9)))
    annotate(voc, "04", thing(box=(0, 1, 42, 9)))
    (voc / "JPEGImages/05.jpg").unlink()
    (voc / "Annotations/06.xml").unlink()
    splits = read_splits(voc)
    report = check(splits.tables, splits.schema)
    assert [(f.level, f.code, f.message.split(":")[0]) for f in report.findings if f.rows] == [
        ("error", "missing_file", "train.txt, line 6, column image"),
        ("error", "missing_label", "train.txt, line 7, column boxes"),
        ("error", "bad_boxes", "train.txt, lines 2, 3, 4, column boxes"),
        ("warning", "overhanging_boxes", "train.txt, line 5, column boxes"),
    ]
    assert report.left_out("train") == [1, 2, 3, 5, 6]


def test_xml_that_is_broken_or_lacks_something(voc):
    file = voc / "Annotations/03.xml"
    whole = file.read_text()
    file.write_text(whole[:-20])
    assert refused(voc).startswith(f"{file} is not XML: ")
    file.write_text(whole.replace("<xmin>1</xmin>", "<xmin>left</xmin>"))
    assert refused(voc) == f"{file}: the xmin of a bndbox is 'left', not a number. Mend it."
    file.write_text(whole.replace("<name>dog</name>", ""))
    assert refused(voc) == f"{file}, object 2 has no name. Add it."
    file.write_text(whole.replace("bndbox", "box"))
    assert refused(voc) == f"{file}, object 1 has no bndbox. Add it."


def test_entities_that_grow_are_refused(voc):
    grown = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    (voc / "Annotations/03.xml").write_text(
        f'<!DOCTYPE annotation [<!ENTITY e0 "a">{grown}]><annotation>&e11;</annotation>'
    )
    assert "03.xml is not XML: limit on input amplification factor" in refused(voc)

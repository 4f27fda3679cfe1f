import json
from dataclasses import replace
from pathlib import Path

import pytest

from triptych.data.schema import Field, guess, read_schema
from triptych.data.table import Table, read_table
from triptych.errors import InputError


def table(folder: Path, header: str, *lines: str) -> Table:
    path = folder / "rows.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return read_table(path)


def kinds(schema) -> dict[str, str]:
    return dict(line.split(": ") for line in str(schema).splitlines())


def test_kinds_and_roles_are_guessed(tmp_path):
    rows = [
        f"{i},p/{i}.jpg,c/{i}.flac,the sentence number {i},{i / 7},{'red' if i % 2 else 'blue'},s{i % 3},"
        f"{'train' if i else 'test'},{i % 4}"
        for i in range(40)
    ]
    schema = guess(table(tmp_path, ",photo,clip,caption,size,colour,speaker,split,label", *rows))
    assert kinds(schema) == {
        "unnamed_1": "number:ignore",
        "photo": "image:input",
        "clip": "audio:input",
        "caption": "text:input",
        "size": "number:input",
        "colour": "category:input",
        "speaker": "category:group",
        "split": "category:split",
        "label": "category:target",
    }
    assert [field.name for field in schema.inputs] == ["photo", "clip", "caption", "size", "colour"]
    assert schema.target == Field(name="label", kind="category", role="target")
    assert [field.name for field in schema.groups] == ["speaker"]
    assert schema.split.name == "split"


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "2", "1", "0"], "category"),
        (["1.5", "2", "1"], "number"),
        (["a", "b"], "category"),
        ([str(i) for i in range(30)], "number"),
    ],
)
def test_a_target_of_a_few_whole_numbers_is_a_category(tmp_path, cells, kind):
    schema = guess(table(tmp_path, "x,y", *(f"word {i} of many more,{cell}" for i, cell in enumerate(cells))))
    assert schema.target.kind == kind


def test_an_id_that_never_repeats_is_ignored(tmp_path):
    schema = guess(table(tmp_path, "photo_id,x", *(f"{i},some words and number {i}" for i in range(30))))
    assert kinds(schema)["photo_id"] == "number:ignore"


def test_overrides_win_and_a_target_on_the_command_line_wins_over_them(tmp_path):
    rows = table(tmp_path, "x,y,z", "1,a,b", "2,b,a")
    assert kinds(guess(rows, overrides={"x": "category", "y": "target", "z": "text:group"})) == {
        "x": "category:input",
        "y": "category:target",
        "z": "text:group",
    }
    assert kinds(guess(rows, target="z", overrides={"y": "category:target"}))["y"] == "category:ignore"


@pytest.mark.parametrize(
    ("overrides", "target", "message"),
    [
        ({"x": "images"}, None, "Column 'x': there is no kind 'images'. Did you mean 'image'?"),
        (
            {"x": "gif"},
            None,
            (
                "Column 'x': there is no kind 'gif'. Choose one of: "
                "image, audio, video, series, text, category, number, boxes, mask, identity."
            ),
        ),
        ({"x": "text:inputs"}, None, "Column 'x': there is no role 'inputs'. Did you mean 'input'?"),
        (
            {"x": "boxes:input"},
            None,
            "Column 'x' holds boxes, which a model answers and never reads. Write `x: boxes:target` or `x: ignore`.",
        ),
        ({"photos": "image"}, None, "rows.csv has no column 'photos'. Did you mean 'photo'?"),
        ({}, "label", "rows.csv has no column 'label'. Choose one of: x, photo."),
        ({"x": "target", "photo": "target"}, None, "Two columns are marked as the target: 'x' and 'photo'. Keep one."),
        (
            {"x": "ignore", "photo": "ignore"},
            None,
            "rows.csv has no column that a model could read. Say which columns are inputs, as `photo: image:input`.",
        ),
    ],
)
def test_bad_overrides_are_refused(tmp_path, overrides, target, message):
    with pytest.raises(InputError) as caught:
        guess(table(tmp_path, "x,photo", "1,a.png"), target, overrides)
    assert str(caught.value) == message


def test_boxes_and_masks_are_answers_alone(tmp_path):
    cell = json.dumps([{"label": "cat", "box": [0, 1, 2, 3]}])
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"photo": f"{i}.png", "things": cell, "parts": f"m/{i}.png"}) + "\n" for i in range(4))
    )
    rows = read_table(tmp_path / "a.jsonl")
    assert kinds(guess(rows)) == {"photo": "image:input", "things": "boxes:ignore", "parts": "image:input"}
    assert kinds(guess(rows, overrides={"parts": "mask"}))["parts"] == "mask:target"
    assert kinds(guess(rows, "parts")) == {"photo": "image:input", "things": "boxes:ignore", "parts": "mask:target"}
    assert kinds(guess(rows, "things", {"parts": "mask"}))["parts"] == "mask:ignore"
    assert kinds(guess(rows, "things"))["things"] == "boxes:target"


def test_what_a_layout_says_holds_until_a_person_says_otherwise(tmp_path):
    rows = replace(
        table(tmp_path, "x,y,id", "1,a,1", "2,b,1"), kinds={"x": "text:input", "y": "text:target", "id": "group"}
    )
    assert kinds(guess(rows)) == {"x": "text:input", "y": "text:target", "id": "number:group"}
    assert kinds(guess(rows, overrides={"id": "category:target", "y": "category"})) == {
        "x": "text:input",
        "y": "category:ignore",
        "id": "category:target",
    }
    assert rows.take([1]).kinds == rows.kinds


def test_a_schema_file(tmp_path):
    path = tmp_path / "schema.yaml"
    path.write_text("photo: image\nodd: category:target\n")
    assert read_schema(path) == {"photo": "image", "odd": "category:target"}
    path.write_text("- photo\n")
    with pytest.raises(
        InputError, match=r"schema\.yaml is not a mapping of columns to kinds\. Write one line a column"
    ):
        read_schema(path)
    path.write_text("a: [\n")
    with pytest.raises(InputError, match=r"schema\.yaml is not YAML: "):
        read_schema(path)
    with pytest.raises(InputError, match="There is no schema "):
        read_schema(tmp_path / "none.yaml")

from pathlib import Path

import pytest
from PIL import Image

from triptych.data.splits import read_splits


def pictures(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 2 * i, 255 - i)).save(folder / name)


def rows(folder: Path) -> dict[str, int]:
    return {split: len(table) for split, table in read_splits(folder).tables.items()}


def test_one_table_is_drawn_by_whole_groups(tmp_path):
    (tmp_path / "a.csv").write_text("x,speaker\n" + "".join(f"the words {i},s{i % 20}\n" for i in range(200)))
    tables = read_splits(tmp_path / "a.csv").tables
    assert {split: len(table) for split, table in tables.items()} == {"train": 160, "valid": 20, "test": 20}
    speakers = [set(table.column("speaker")) for table in tables.values()]
    assert not speakers[0] & speakers[1]
    assert not (speakers[0] | speakers[1]) & speakers[2]
    assert read_splits(tmp_path / "a.csv", seed=1).sha256 != read_splits(tmp_path / "a.csv").sha256


@pytest.mark.parametrize("form", ["tables", "column"])
def test_where_nothing_is_to_choose_by_a_tenth_of_training_is_drawn(tmp_path, form):
    lines = {"train": [f"the words {i},{i % 2}" for i in range(50)], "test": [f"others {i},{i % 2}" for i in range(9)]}
    if form == "tables":
        for split, cells in lines.items():
            (tmp_path / f"{split}.csv").write_text("\n".join(["x,label", *cells]) + "\n")
        data = tmp_path
    else:
        data = tmp_path / "a.csv"
        data.write_text("x,label,split\n" + "".join(f"{cell},{split}\n" for split in lines for cell in lines[split]))
    assert rows(data) == {"train": 45, "test": 9, "valid": 5}
    assert not set(read_splits(data).table("train").column("x")) & set(read_splits(data).table("valid").column("x"))


def test_training_rows_alone_stay_whole(tmp_path):
    (tmp_path / "train.csv").write_text("x,label\n" + "".join(f"the words {i},{i % 2}\n" for i in range(50)))
    assert rows(tmp_path) == {"train": 50}


def test_what_a_layout_calls_val_is_to_judge_by_where_it_has_no_test(tmp_path):
    pictures(
        tmp_path,
        *(f"train/{c}/{i}.png" for c in "ab" for i in range(10)),
        *(f"val/{c}/{i}.png" for c in "ab" for i in "12"),
    )
    splits = read_splits(tmp_path)
    assert {split: len(table) for split, table in splits.tables.items()} == {"train": 18, "test": 4, "valid": 2}
    assert splits.table("test").place(0) == "val, row 1"


def test_a_schema_beside_a_layout_overrules_it(tmp_path):
    pictures(tmp_path, *(f"images/{i}.png" for i in range(10)), *(f"masks/{i}.png" for i in range(10)))
    (tmp_path / "schema.yaml").write_text("mask: ignore\n")
    assert str(read_splits(tmp_path).schema) == "image: image:input\nmask: mask:ignore"

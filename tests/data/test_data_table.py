import csv
import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from triptych.data.table import read_table
from triptych.errors import InputError


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_table(path)
    return str(caught.value)


def test_csv_cells_stay_strings_and_only_an_empty_cell_is_missing(tmp_path):
    table = read_table(write(tmp_path, "a.csv", 'word,n\nnull,007\n,NA\n"",1.50\n'))
    assert table.column("word") == ["null", None, None]
    assert table.column("n") == ["007", "NA", "1.50"]
    assert table.row(0) == {"word": "null", "n": "007"}
    assert (len(table), table.names, table.root) == (3, ["word", "n"], tmp_path)


def test_lines_are_named_right_behind_cells_that_span_lines(tmp_path):
    table = read_table(write(tmp_path, "a.csv", 'x,y\n1,"one\ntwo\nthree"\n\n2,b\n'))
    assert [table.place(i) for i in range(2)] == ["a.csv, line 2", "a.csv, line 6"]
    assert table.column("y")[0] == "one\ntwo\nthree"


CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_what_is_written_as_csv_is_read_back_and_found_at_its_line(rows):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        starts = []
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["x", "y"])
            for row in rows:
                file.flush()
                starts.append(line_after(path))
                writer.writerow(row)
        table = read_table(path)
        assert [tuple(table.row(i).values()) for i in range(len(table))] == [
            tuple(cell or None for cell in row) for row in rows
        ]
        assert list(table.numbers) == starts


def line_after(path: Path) -> int:
    """The number of the line that follows what is written; a line ends with CR, LF or both."""
    content = path.read_bytes()
    return 1 + content.count(b"\n") + content.count(b"\r") - content.count(b"\r\n")


def test_take_keeps_places_and_changes_the_hash(tmp_path):
    table = read_table(write(tmp_path, "a.csv", "x\na\nb\nc\n"))
    taken = table.take([2, 0])
    assert taken.column("x") == ["c", "a"]
    assert taken.place(0) == "a.csv, line 4"
    assert taken.places([0, 1]) == "a.csv, lines 4, 2"
    assert table.places(range(3), most=2) == "a.csv, lines 2, 3 and 1 more"
    assert len({table.sha256, taken.sha256, table.take([0, 2]).sha256}) == 3
    assert taken.sha256 == table.take([2, 0]).sha256


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "﻿x;y\n1;2,5\n"), ("a.tsv", "x\ty\n1\t2,5\n"), ("a.csv", 'x,y\r\n1,"2,5"\r\n')],
)
def test_separators_marks_and_line_ends(tmp_path, name, content):
    assert read_table(write(tmp_path, name, content)).row(0) == {"x": "1", "y": "2,5"}


def test_a_nameless_column_gets_a_name(tmp_path):
    assert read_table(write(tmp_path, "a.csv", ",x\n0,a\n")).names == ["unnamed_1", "x"]


def test_a_ragged_row_is_named_by_its_line(tmp_path):
    path = write(tmp_path, "a.csv", 'x,y\n1,2\n1,"a\nb"\n1,2,3\n')
    assert refused(path) == (
        "a.csv, line 5 has 3 cells; the header has 2. "
        "Put cells that contain the separator or line breaks in double quotes."
    )
    assert "line 2 has 1 cell; the header has 2." in refused(write(tmp_path, "b.csv", "x,y\n1\n"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "a.csv is empty. Bring a table with a header and rows."),
        ("a.csv", "x,y\n", "a.csv has no rows. Bring a table with at least one row below its header."),
        ("a.csv", "x,y,x\n1,2,3\n", "a.csv has two columns called 'x'. Rename one."),
        ("a.csv", 'x\n"a" b\n', "a.csv, line 2 is not CSV: ',' expected after '\"'. Mend the line."),
        ("a.csv", b"x\nok\n\xff\xfe\n", "a.csv, line 3 is not UTF-8 text. Save the table as UTF-8."),
        (
            "a.csv",
            "x\n" + "a" * 200_000 + "\n",
            "a.csv, line 2 is not CSV: field larger than field limit (131072). Mend the line.",
        ),
        (
            "a.jsonl",
            '{"x": 1}\n[1]\n',
            'a.jsonl, line 2 is not a JSON object. Write each row as {"column": cell, ...}.',
        ),
        (
            "a.jsonl",
            '{"x": 1}\n{"x"\n',
            "a.jsonl, line 2 is not JSON: Expecting ':' delimiter: line 1 column 5 (char 4). Mend the line.",
        ),
        (
            "a.jsonl",
            '{"x": 1}\n{}\n{"x": "b"}\n',
            'a.jsonl, line 3, column x holds "b"; the lines before hold int values. Give a column one type.',
        ),
        ("a.xlsx", "PK", "a.xlsx is not a table that can be read. Bring one of: .csv, .tsv, .parquet, .jsonl."),
    ],
)
def test_bad_tables_are_refused_by_name(tmp_path, name, content, message):
    assert refused(write(tmp_path, name, content)) == message


def test_what_is_not_there_or_not_parquet_is_refused(tmp_path):
    assert refused(tmp_path / "no.csv") == f"There is no {tmp_path / 'no.csv'}. Check the path of the data."
    assert refused(write(tmp_path, "a.parquet", "text")).startswith("a.parquet is not a Parquet file: ")
    assert re.match(r".* is neither a folder of tables nor a folder per class\.", refused(tmp_path))


def test_json_lines_keep_types_and_missing_keys(tmp_path):
    lines = [{"x": 1, "y": "a"}, {"x": 2.5}, {"x": None, "y": ""}]
    table = read_table(write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, lines))))
    assert table.column("x") == [1.0, 2.5, None]
    assert table.column("y") == ["a", None, None]


def test_parquet_with_media_inside(tmp_path):
    rows = pa.table({"picture": [{"bytes": b"\x89PNG", "path": None}], "n": [3], "empty": [""]})
    pq.write_table(rows, tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.row(0) == {"picture": {"bytes": b"\x89PNG", "path": None}, "n": 3, "empty": None}
    assert table.place(0) == "a.parquet, row 1"


def test_a_folder_per_class(tmp_path):
    for name in ("dog/b.png", "cat/a.png", "cat/deep/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    write(tmp_path / "cat", ".hidden.png", "")
    write(tmp_path / "cat", "notes.txt", "")
    table = read_table(tmp_path)
    assert table.column("file") == ["cat/a.png", "cat/deep/c.png", "dog/b.png"]
    assert table.column("label") == ["cat", "cat", "dog"]
    before = table.sha256
    Image.new("RGB", (2, 2), "red").save(tmp_path / "dog/b.png")
    assert read_table(tmp_path).sha256 != before


def test_a_hugging_face_dataset_directory(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    part = datasets.Dataset.from_dict({"text": ["a", ""], "label": [1, 0]}, features=features)
    datasets.DatasetDict(train=part, test=part.select([1])).save_to_disk(tmp_path / "both")
    part.save_to_disk(tmp_path / "one")
    table = read_table(tmp_path / "both")
    assert table.column("split") == ["train", "train", "test"]
    assert table.column("label") == ["yes", "no", "no"]
    assert table.column("text") == ["a", None, None]
    assert read_table(tmp_path / "one").names == ["text", "label"]

"""What a published model makes of data."""

import shutil


def test_columns_that_the_model_does_not_read_are_ignored(tiny_data, tiny_trained, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    for split in ("train", "valid", "test"):
        head, *rows = (data / f"{split}.csv").read_text().splitlines()
        noted = [f"{head},note", *(f"{row},a note of this row {place}" for place, row in enumerate(rows))]
        (data / f"{split}.csv").write_text("\n".join(noted) + "\n")
    schema = tiny_trained.loaded.splits(data).schema
    assert {field.name: field.role for field in schema.fields}["note"] == "ignore"
    assert [field.name for field in schema.inputs] == ["picture", "sound", "word"]

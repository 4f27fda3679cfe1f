"""What the example projects make of the public packs."""

from importlib import import_module
from pathlib import Path

import pytest
from benchmarks.packs import PACKS

from triptych.data.check import check
from triptych.data.splits import read_splits

EXAMPLES = Path(__file__).parents[1] / "examples"
NAMES = sorted(file.parent.name for file in EXAMPLES.glob("*/recipe.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_the_script_of_an_example_makes_tables_without_errors(name, tmp_path):
    if not PACKS.is_dir():
        pytest.skip("no packs: set TRIPTYCH_DATA to their folder")
    example = import_module(f"examples.{name}.make")
    (tmp_path / "data").mkdir()
    splits = read_splits(example.make(tmp_path / "data"))
    assert {field.name for field in splits.schema.fields} == set(example.COLUMNS)
    assert splits.schema.target is not None
    assert set(splits.tables) == {"train", "valid", "test"}
    assert check(splits.tables, splits.schema).of("error") == ()


@pytest.mark.parametrize("name", NAMES)
def test_an_example_says_how_it_is_run_and_the_readme_names_it(name):
    told = (EXAMPLES / name / "README.md").read_text()
    for words in (f"python -m examples.{name}.make", "triptych train", "triptych compress", "triptych predict"):
        assert words in told
    assert f"examples/{name}" in (EXAMPLES.parent / "README.md").read_text()

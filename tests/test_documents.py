"""What the documents claim is what was measured, and what the repository must not hold it does not hold."""

from pathlib import Path

import pytest
import yaml
from benchmarks import record, tables

ROOT = Path(__file__).parents[1]


def test_the_readmes_figures_are_those_of_the_json():
    readme = (ROOT / "README.md").read_text()
    assert "<!-- figures -->" in readme
    assert tables.with_figures(readme) == readme


def test_the_tables_are_those_of_the_json():
    assert (ROOT / "docs" / "results.md").read_text() == tables.results()


@pytest.mark.parametrize("name", ["demo", "grid", "methods", "overhead", "left_out"])
def test_every_result_says_where_and_when(name):
    found = record.read(name)
    if not found:
        pytest.skip(f"benchmarks/results/{name}.json has not been measured yet: run `make bench`")
    assert set(found["environment"]) == {"date", "cpu", "threads", "versions"}


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_is_valid(path):
    from triptych.recipe import read_recipe

    assert read_recipe(path).model.inputs


def test_every_recipe_is_in_the_list_of_tasks():
    listed = (ROOT / "docs" / "tasks.md").read_text()
    assert [path.stem for path in (ROOT / "recipes").glob("*.yaml") if f"`{path.stem}`" not in listed] == []


def test_every_public_name_can_be_had():
    import triptych

    for name in triptych.__all__:
        assert getattr(triptych, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = triptych.nothing


def test_files_and_functions_stay_short_enough_to_read():
    import ast

    for path in (ROOT / "src").rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno <= 80, f"{path}: {node.name}"


def test_no_room_is_without_a_name():
    nameless = {"utils", "util", "helpers", "helper", "misc", "base", "common"}
    assert not [p for p in (ROOT / "src").rglob("*.py") if p.stem in nameless]


def test_the_bundled_data_is_small():
    files = list((ROOT / "examples" / "odd_one_out").iterdir())
    assert sum(f.stat().st_size for f in files) <= 8_000_000


def test_the_readme_shows_the_tree_that_is_there():
    readme = (ROOT / "README.md").read_text()
    for folder in sorted(
        p.name for p in (ROOT / "src" / "triptych").iterdir() if p.is_dir() and p.name != "__pycache__"
    ):
        assert f"{folder}/" in readme, f"README.md does not show {folder}/"


def test_yaml_of_the_repository_is_readable():
    for path in (ROOT / "recipes").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["version"] == 1

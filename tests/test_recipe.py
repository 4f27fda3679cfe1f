import pytest
import yaml

from triptych.errors import InputError
from triptych.recipe import Recipe, parse, read_recipe, write_recipe


def test_a_recipe_survives_its_file(tiny_recipe, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(write_recipe(tiny_recipe))
    assert read_recipe(file) == tiny_recipe
    assert yaml.safe_load(file.read_text())["version"] == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train": {"steps": 3, "epochs": 2}}, "give one of `steps` and `epochs`"),
        ({"train": {"steps": 0}}, r"train\.steps: Input should be greater than or equal to 1"),
        (
            {"train": {"steps": 3, "optimizer": {"learning_rate": 1}}},
            r"train\.optimizer\.learning_rate is not a setting \(there are: name, lr,",
        ),
        ({"modle": {}}, r"modle is not a setting \(did you mean model\?\)"),
        (
            {"model": {"inputs": {"a": {"encodr": {}}}}},
            r"model\.inputs\.a\.encodr is not a setting \(did you mean encoder\?\)",
        ),
        ({"version": 2}, r"version: Input should be 1"),
    ],
)
def test_what_does_not_fit_is_named(content, message):
    with pytest.raises(InputError, match=message):
        parse(Recipe, content, "recipe.yaml")


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text("train: [")
    with pytest.raises(InputError, match="is not a YAML recipe"):
        read_recipe(file)

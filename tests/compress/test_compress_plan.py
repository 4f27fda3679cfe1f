import pytest
from pydantic import ValidationError

from triptych.compress.plan import Distil, Drop, Plan, Prune, Quantise, check_names, read_plan, scheme, word, write_plan
from triptych.errors import InputError


@pytest.fixture
def plan():
    return Plan(
        why="a test",
        passes=(
            Prune(keep={"encoders.a.inner": 4}),
            Drop(blocks=("encoders.a.block",)),
            Distil(steps=7),
            Quantise(layers={"encoders.a.weight": "w4g32", "task.output.weight": "fp32"}),
        ),
    )


def test_a_plan_survives_its_file(plan, tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text(write_plan(plan))
    assert read_plan(file) == plan


@pytest.mark.parametrize("text", ["fp32", "w8", "w4g64", "w3g16z", "w8a8", "w8a8t"])
def test_a_scheme_is_told_in_the_word_it_was_read_from(text):
    assert word(scheme(text, "gptq")) == text


def test_schemes_are_read_from_words():
    assert scheme("w8a8", "gptq").activation == 8
    assert scheme("w8a8", "gptq").weight.group is None
    assert scheme("w3g16", "rtn").weight.bits == 3
    assert scheme("w3g16", "rtn").weight.group == 16
    assert scheme("fp32", "rtn").weight is None


@pytest.mark.parametrize("word", ["w9", "w4g", "int8", "w8a4", ""])
def test_a_word_that_is_no_scheme_is_refused(word):
    with pytest.raises(ValidationError, match="is not a scheme; write fp32, w8a8, w8, w4g32 and the like"):
        Quantise(layers={"x": word})


def test_nothing_may_follow_quantising(plan):
    with pytest.raises(ValidationError, match="must be the last pass"):
        Plan(passes=(plan.passes[3], plan.passes[2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ["task.output.weight"]}, r"layer 'encoders\.a\.weight', which is not in the model\. Did you mean"),
        (
            {"widths": {"encoders.b.inner": 8}},
            r"width 'encoders\.a\.inner', which is not in the model\. Did you mean 'encoders\.b",
        ),
        ({"widths": {"encoders.a.inner": 3}}, r"keeps 4 units of 'encoders\.a\.inner', which has 3\. Keep 1 to 3"),
        ({"blocks": []}, r"block 'encoders\.a\.block', which is not in the model\. `triptych inspect` lists the names"),
    ],
)
def test_a_plan_for_another_model_is_refused_by_name(plan, change, message):
    there = {
        "layers": ["encoders.a.weight", "task.output.weight"],
        "widths": {"encoders.a.inner": 8},
        "blocks": ["encoders.a.block"],
    }
    check_names(plan, **there)
    with pytest.raises(InputError, match=message):
        check_names(plan, **{**there, **change})


def test_a_plan_file_with_a_wrong_key_names_it(tmp_path):
    file = tmp_path / "plan.yaml"
    file.write_text("passes:\n  - {do: quantise, layer: {x: w8}}\n")
    with pytest.raises(InputError, match=r"plan\.yaml does not fit: .*quantise\.layer is not a setting\."):
        read_plan(file)
    file.write_text("passes: [")
    with pytest.raises(InputError, match=r"plan\.yaml is not YAML"):
        read_plan(file)
    with pytest.raises(InputError, match="Make one with `triptych compress"):
        read_plan(tmp_path / "nowhere.yaml")

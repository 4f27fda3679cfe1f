"""A budget of bytes for a folder: met exactly, spent where it serves, and refused below the floor."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from triptych.compress import plan as plans
from triptych.compress.hub import allocate
from triptych.compress.hub.prepare import prepare
from triptych.compress.hub.request import HubRequest, work_folder
from triptych.compress.hub.verb import compress_folder
from triptych.errors import BudgetError, ContractBroken, InputError

COMMAND = "triptych compress model --data data --size 30% --out small"


def request(folder: Path, out: Path, **options: Any) -> HubRequest:
    asked = {"rows": 6, "check": 2, "size": "30%", **options}
    return HubRequest(model=folder / "model", data=folder / "data", out=out, **asked)


def stored(folder: Path) -> int:
    return sum(tensor.nbytes for tensor in safetensors.torch.load_file(folder / "model.safetensors").values())


def test_the_bytes_that_were_planned_are_those_that_are_stored(llava: Path, tmp_path: Path) -> None:
    report = compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    plan = plans.read_plan(tmp_path / "small" / "plan.yaml")
    assert stored(tmp_path / "small") == report["after"]["bytes"] == plan.predicted["bytes"]
    assert 0.28 < report["after"]["bytes"] / report["before"]["bytes"] <= 0.30
    assert sum(row["bytes_after"] for row in report["components"]) == report["after"]["bytes"]
    assert plan.predicted["divergence"] / 10 < report["agreement"]["divergence"] < 10 * plan.predicted["divergence"]
    assert "lm_head.weight" in plan.passes[0].layers
    layers = plan.passes[0].layers
    for name, word in layers.items():  # readers fuse what shares its input
        assert layers[name.replace("q_proj", "k_proj").replace("gate_proj", "up_proj")] == word


def test_the_plan_can_be_carried_out_again(llava: Path, tmp_path: Path) -> None:
    compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    again = request(llava, tmp_path / "again", size=None, plan=tmp_path / "small" / "plan.yaml")
    compress_folder(again, command=COMMAND)
    one, other = (tmp_path / name / "model.safetensors" for name in ("small", "again"))
    assert one.read_bytes() == other.read_bytes()
    with pytest.raises(InputError, match="Give one of them"):
        prepare(again.model_copy(update={"size": "30%"}))


def test_a_smaller_budget_loses_more_and_named_components_keep_their_word(llava: Path, tmp_path: Path) -> None:
    small = compress_folder(
        request(llava, tmp_path / "a", size="20%", components={"decoder": "w4g32"}), command=COMMAND
    )
    assert next(row for row in small["components"] if row["name"] == "decoder")["decision"] == {"w4g32": 14}
    large = compress_folder(request(llava, tmp_path / "b", size="200kB"), command=COMMAND)
    assert small["agreement"]["divergence"] > large["agreement"]["divergence"]
    assert large["after"]["bytes"] <= 200_000


def test_measuring_leaves_the_model_as_it_was(llava: Path, tmp_path: Path) -> None:
    inputs = safetensors.torch.load_file(llava / "data" / "2.safetensors")
    with torch.no_grad():
        plain = prepare(request(llava, tmp_path / "a", size=None)).stream.model(**inputs).logits
        measured = prepare(request(llava, tmp_path / "b")).stream.model(**inputs).logits
    assert torch.equal(plain, measured)
    assert not list(tmp_path.iterdir())


def test_a_run_that_goes_on_measures_nothing_anew(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = compress_folder(request(llava, tmp_path / "small"), command=COMMAND)
    work = work_folder(tmp_path / "killed")
    work.mkdir()
    (work / "plan.yaml").write_bytes((tmp_path / "small" / "plan.yaml").read_bytes())

    def fails(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(allocate, "allocate", fails)
    ready = prepare(request(llava, tmp_path / "killed"))
    words = {name: plans.word(scheme) for name, scheme in ready.work.schemes.items()}
    assert {name: entry["scheme"] for name, entry in first["layers"].items()} == words
    with pytest.raises(AssertionError):
        prepare(request(llava, tmp_path / "killed", size="31%"))


def test_below_the_floor_it_says_what_is_possible(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match=r"the smallest that is possible is [\d,]+ bytes \(15\.0 %\).*look-up tables"):
        prepare(request(llava, tmp_path / "small", size="10%"))
    with pytest.raises(InputError, match="'a lot' is not a size"):
        prepare(request(llava, tmp_path / "small", size="a lot"))


def test_a_broken_promise_says_that_more_bytes_help(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(ContractBroken, match=r"Allow more bytes than --size 16%"):
        compress_folder(request(llava, tmp_path / "small", size="16%", keep=0.9999), command=COMMAND)

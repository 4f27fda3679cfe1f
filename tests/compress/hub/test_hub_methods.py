"""Every way of choosing codes, through a whole folder: what is written means the same to a reader without Triptych."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from families import FAMILIES
from triptych.compress.driver import drive
from triptych.compress.hub.kv_cache import observe
from triptych.compress.hub.prepare import prepare
from triptych.compress.hub.request import HubRequest, work_folder
from triptych.compress.hub.tell import show_choice
from triptych.compress.hub.verb import cache_of, compress_folder, identity, run_driver
from triptych.compress.journal import Journal
from triptych.compress.plan import read_plan
from triptych.errors import InputError
from triptych.models.tiny_batch import tiny_batch

COMMAND = "triptych compress model --data data --out small"
READER = os.environ.get("TRIPTYCH_READER_PYTHON")
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "peers" / "read_folder.py"
WAYS: dict[str, dict[str, Any]] = {
    "autoround": {"method": "autoround", "components": {"decoder": "w2g32", "*.encoder": "w3g32"}},
    "gptaq": {"method": "gptaq", "components": {"decoder": "w2g32", "*.encoder": "w3g32"}},
    "fp8": {"components": {"decoder": "f8", "*.encoder": "f8a8t"}},
    "fp8 cache": {"kv_cache": "fp8", "components": {"decoder": "w8"}},
    "int8 cache": {"kv_cache": "int8", "components": {"decoder": "f8"}},
    "awq": {"migrate": "awq", "components": {"decoder": "w3g32", "*.encoder": "w3g32"}},
    "smooth": {"migrate": "both", "method": "gptaq", "components": {"decoder": "w3g32", "*.encoder": "w8a8t"}},
}


def request(folder: Path, out: Path, **options: Any) -> HubRequest:
    return HubRequest(model=folder / "model", data=folder / "data", out=out, **{"rows": 6, "check": 2, **options})


def answers_after(asked: HubRequest, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the compressed model answers in this process."""
    ready = prepare(asked)
    run_driver(ready, Journal(work_folder(asked.out), identity(asked, ready)))
    cache_of(asked, ready)
    with torch.no_grad():
        output = ready.stream.model(**inputs)
    return {name: x for name, x in output.items() if isinstance(x, Tensor) and x.is_floating_point()}


@pytest.mark.parametrize("way", WAYS)
def test_the_folder_answers_as_the_model_that_was_compressed(llava: Path, tmp_path: Path, way: str) -> None:
    asked = request(llava, tmp_path / "small", **WAYS[way])
    inputs = safetensors.torch.load_file(llava / "data" / "1.safetensors")
    ours = answers_after(asked, inputs)
    report = compress_folder(asked, command=COMMAND)
    assert report["agreement"]["divergence"] < 0.01
    if not READER:
        pytest.skip("TRIPTYCH_READER_PYTHON names no environment of benchmarks/peers/compressed_tensors.txt")
    safetensors.torch.save_file(inputs, tmp_path / "inputs.safetensors")
    command = [READER, SCRIPT, asked.out, tmp_path / "inputs.safetensors", tmp_path / "outputs.safetensors"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = safetensors.torch.load_file(tmp_path / "outputs.safetensors")
    for name in ours.keys() & theirs.keys():
        torch.testing.assert_close(theirs[name], ours[name], rtol=1e-4, atol=1e-5)
    assert "logits" in ours.keys() & theirs.keys()


@pytest.mark.parametrize("way", ["autoround", "smooth"])
def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(llava: Path, tmp_path: Path, way: str) -> None:
    whole, broken = (request(llava, tmp_path / part / "small", **WAYS[way]) for part in ("whole", "broken"))
    compress_folder(whole, command=COMMAND)
    ready = prepare(broken)
    work = drive(ready.stream, ready.used, ready.work, Journal(work_folder(broken.out), identity(broken, ready)))
    assert [next(work).block, next(work).block] == [f"model.vision_tower.encoder.layers.{n}" for n in range(2)]
    compress_folder(broken, command=COMMAND)
    for path in whole.out.iterdir():
        assert (broken.out / path.name).read_bytes() == path.read_bytes(), path.name


def test_migration_changes_the_norms_that_linear_layers_alone_read(llava: Path, tmp_path: Path) -> None:
    asked = request(llava, tmp_path / "small", migrate="smooth", components={"*.encoder": "w8a8t"})
    compress_folder(asked, command=COMMAND)
    before, after = (
        safetensors.torch.load_file(path / "model.safetensors") for path in (llava / "model", tmp_path / "small")
    )
    moved = {name for name in before if "norm" in name and not torch.equal(before[name], after[name])}
    assert sorted(name.rpartition("layers.")[2] for name in moved) == [
        f"{layer}.layer_norm{place}.{kind}" for layer in range(2) for place in (1, 2) for kind in ("bias", "weight")
    ]


def test_autoround_does_not_go_with_scales_that_move(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="AutoRound learns blocks as they are"):
        compress_folder(request(llava, tmp_path / "small", migrate="awq", method="autoround"), command=COMMAND)


def test_autoround_learns_blocks_and_leaves_single_layers_to_gptq(llava: Path, tmp_path: Path) -> None:
    plan = {"decoder": "w2g32", "*.connector": "w3"}
    found = compress_folder(request(llava, tmp_path / "small", method="autoround", components=plan), command=COMMAND)[
        "layers"
    ]
    methods = {name: entry["method"] for name, entry in found.items() if entry["scheme"] != "w8a8t"}
    assert {m for name, m in methods.items() if ".layers." in name} == {"autoround"}
    assert {m for name, m in methods.items() if "projector" in name} == {"gptq"}


def test_a_method_that_is_not_there_is_named_before_any_work(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no method 'gptz'.*autoround, .*gptaq, gptq, hqq"):
        compress_folder(request(llava, tmp_path / "small", method="gptz"), command=COMMAND)


def test_zero_points_that_readers_refuse_are_warned_of(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared = prepare(request(llava, tmp_path / "small", components={"decoder": "w4g32z"}))
    show_choice(prepared)
    assert "zero points is not loaded by transformers" in " ".join("".join(capsys.readouterr()).split())


def test_what_a_modality_counts_is_chosen_by_held_out_answers(llava: Path, tmp_path: Path) -> None:
    asked = request(llava, tmp_path / "small", components={"decoder": "w2g32"}, modality_weights="auto")
    report = compress_folder(asked, command=COMMAND)
    step = read_plan(tmp_path / "small" / "plan.yaml").passes[-1]
    tried = dict(re.findall(r"(0|0\.5|1): ([\d.e-]+)", report["plan"]["why"]))
    best = min(tried, key=lambda power: float(tried[power]))
    assert len(tried) == 3
    assert report["modality_weights"] == step.modality_weights
    assert bool(step.modality_weights) == (best != "0")
    again = request(llava, tmp_path / "again", plan=tmp_path / "small" / "plan.yaml")
    compress_folder(again, command=COMMAND)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "small" / "model.safetensors"
    ).read_bytes()


def test_the_weights_of_modalities_change_what_is_rounded(llava: Path, tmp_path: Path) -> None:
    plan = "passes: [{do: quantise, components: {decoder: w2g32}, modality_weights: {image: 0.1}}]\n"
    (tmp_path / "plan.yaml").write_text(plan)
    rounded = []
    for out, options in (
        ("plain", {"components": {"decoder": "w2g32"}}),
        ("weighed", {"plan": tmp_path / "plan.yaml"}),
    ):
        compress_folder(request(llava, tmp_path / out, **options), command=COMMAND)
        rounded.append(safetensors.torch.load_file(tmp_path / out / "model.safetensors"))
    changed = {name for name in rounded[0] if not torch.equal(rounded[0][name], rounded[1][name])}
    assert any("language_model" in name for name in changed)
    assert not any("vision_tower" in name for name in changed)


def test_nothing_to_weigh_is_said(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to weigh"):
        prepare(request(llava, tmp_path / "small", components={"decoder": "fp32"}, modality_weights="auto"))


def test_a_cache_is_scaled_by_the_keys_and_values_that_were_seen(llava: Path, tmp_path: Path) -> None:
    asked = request(llava, tmp_path / "small", kv_cache="int8", components={"*": "fp32", "decoder": "w8"})
    report = compress_folder(asked, command=COMMAND)
    stored = safetensors.torch.load_file(tmp_path / "small" / "model.safetensors")
    assert sum(tensor.nbytes for tensor in stored.values()) == report["after"]["bytes"]
    scales = {name: tensor for name, tensor in stored.items() if name.endswith(("k_scale", "v_scale"))}
    assert sorted(name.rpartition("layers.")[2] for name in scales) == [
        f"{layer}.self_attn.{letter}_scale" for layer in range(2) for letter in "kv"
    ]
    ready = prepare(request(llava, tmp_path / "other", components={"*": "fp32", "decoder": "w8"}))
    largest: list[float] = []
    layer = ready.stream.model.get_submodule("model.language_model.layers.0.self_attn.v_proj")
    layer.register_forward_hook(lambda _, __, y: largest.append(float(y.abs().max())))
    for batch in ready.used:
        ready.stream.model(**batch.inputs)
    found = next(float(tensor) for name, tensor in scales.items() if name.endswith("layers.0.self_attn.v_scale"))
    assert found * 127 == pytest.approx(max(largest), rel=0.01)


def test_a_model_without_a_cache_is_told_so(tmp_path: Path) -> None:
    model = FAMILIES["vit"]()
    with pytest.raises(InputError, match="keeps keys and values"):
        observe(model, [tiny_batch(model)], "fp8")

"""From a trained model to a judged, compressed folder, on the tiny table."""

import json

import numpy as np
import pytest
import torch

from triptych import artifact
from triptych.compress import plan as plans
from triptych.compress.gate import Contract
from triptych.compress.planner import Budget
from triptych.compress.quantize.layers import weights
from triptych.compress.run import compress
from triptych.compress.verb import Request, carry_out
from triptych.data.samples import Samples
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import ArtifactError, BudgetError, ContractBroken
from triptych.evaluate.search import search
from triptych.export.verb import export_model
from triptych.models.store import read_model

LENIENT = Contract(keep=0.0, keep_modality=-100.0)
SHORT = plans.Distil(steps=4, batch_size=16)


@pytest.fixture(scope="module")
def squeezed(tiny_trained, tmp_path_factory):
    """The tiny model at 45 % of its bytes."""
    out = tmp_path_factory.mktemp("squeezed") / "compressed"
    size = artifact.read_manifest(tiny_trained.loaded.folder).size_bytes
    budget = Budget(size_bytes=int(0.8 * size))
    return compress(
        tiny_trained.loaded, tiny_trained.splits, out, budget=budget, contract=LENIENT, distil=SHORT
    ), budget


def test_the_budget_is_met_by_the_bytes_on_disk(squeezed):
    outcome, budget = squeezed
    folder = outcome.loaded.folder
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= budget.size_bytes


def test_the_published_model_runs_compressed_and_alike_in_both_engines(squeezed, tiny_trained):
    outcome, _ = squeezed
    samples = Samples(tiny_trained.splits.table("test"), outcome.loaded.processor, tiny_trained.splits.schema)
    batch = samples.batch(range(len(samples)))
    torch_outputs = TorchEngine(outcome.loaded.model)(batch.inputs, batch.presence)
    engine = OpenVINOEngine(outcome.loaded.model, (batch.inputs, batch.presence), outcome.loaded.quantized, threads=1)
    outputs = engine(batch.inputs, batch.presence)
    assert np.abs(outputs - torch_outputs).max() < 0.05 * max(torch_outputs.std(), 0.1)
    assert {o.precision for o in engine.executed(1) if o.type in {"Convolution", "FullyConnected"}} & {"i8", "u8"}


def test_a_second_call_finds_the_work_done(squeezed, tiny_trained):
    outcome, budget = squeezed
    again = compress(
        tiny_trained.loaded, tiny_trained.splits, outcome.loaded.folder, budget=budget, contract=LENIENT, distil=SHORT
    )
    assert again.loaded.sha256 == outcome.loaded.sha256
    assert not again.attempts
    assert again.after.mean() == outcome.after.mean()


def test_an_output_of_another_run_is_refused_with_the_field_that_differs(squeezed, tiny_trained):
    outcome, budget = squeezed
    with pytest.raises(ArtifactError, match="seed is 0 there and 1 here"):
        compress(
            tiny_trained.loaded,
            tiny_trained.splits,
            outcome.loaded.folder,
            budget=budget,
            contract=LENIENT,
            distil=SHORT,
            seed=1,
        )


def test_a_budget_nobody_can_meet_says_the_smallest_possible(tiny_trained, tmp_path):
    with pytest.raises(BudgetError, match=r"the smallest that is possible here is [\d,]+ bytes"):
        compress(
            tiny_trained.loaded, tiny_trained.splits, tmp_path / "out", budget=Budget(size_bytes=100), contract=LENIENT
        )
    assert not (tmp_path / "out").exists()


def test_every_kind_of_pass_composes(tiny_trained, tmp_path):
    model = tiny_trained.loaded.model
    width = next(w for w in model.widths() if w.name.endswith("inner"))
    block = model.droppable()[0]
    layers = [name for name in weights(model) if not name.startswith(block)]
    plan = plans.Plan(
        passes=(
            plans.Prune(keep={width.name: width.units // 2}, rows=32),
            plans.Drop(blocks=(block,)),
            plans.Sparsify(sparsity=0.5),
            plans.Distil(steps=2, batch_size=16),
            plans.Quantise(rows=32, layers=dict.fromkeys(layers, "w4g8")),
        )
    )
    outcome = compress(
        tiny_trained.loaded, tiny_trained.splits, tmp_path / "out", budget=Budget(), contract=LENIENT, plan=plan
    )
    small = outcome.loaded.model
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert small.config.dropped == [block]
    codes = [parameter for name, parameter in small.named_parameters() if name in layers]
    zeros = sum(int((c == 0).sum()) for c in codes) / sum(c.numel() for c in codes)
    assert zeros >= 0.49  # rounding may add zeros, and takes none away


def test_a_killed_compression_continues_to_the_same_bytes(tiny_trained, tmp_path, monkeypatch):
    from triptych.compress import run as module

    plan = plans.Plan(
        passes=(
            plans.Distil(steps=3, batch_size=16),
            plans.Quantise(rows=32, layers={"task.output.weight": "w4g8", "task.hidden.weight": "w8a8"}),
        )
    )

    def once(out):
        return compress(tiny_trained.loaded, tiny_trained.splits, out, budget=Budget(), contract=LENIENT, plan=plan)

    once(tmp_path / "whole")
    real, calls = module.run_pass, []

    def dies_in_the_second(*args):
        calls.append(args[1].do)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(*args)

    monkeypatch.setattr(module, "run_pass", dies_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    once(tmp_path / "killed")
    assert calls == ["distil", "quantise", "quantise"]  # the first pass was not done again
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


def test_a_damaged_model_folder_is_refused_by_name(squeezed, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(squeezed[0].loaded.folder, folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match=r"model\.safetensors"):
        read_model(folder)


def test_a_broken_contract_writes_the_report_and_raises(tiny_trained, tiny_data, tmp_path):
    plan = plans.Plan(passes=(plans.Quantise(rows=32, layers={"task.output.weight": "w8a8"}),))
    (tmp_path / "plan.yaml").write_text(plans.write_plan(plan))
    request = Request(
        model=tiny_trained.loaded.folder,
        data=tiny_data,
        out=tmp_path / "out",
        plan=tmp_path / "plan.yaml",
        keep="150%",
        keep_modality="50%",
    )
    with pytest.raises(ContractBroken, match="breaks the contract: quality kept"):
        carry_out(request, command="triptych compress")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == 1
    assert report["contract"]["verdict"] == "broken"
    assert report["before"]["bytes"] == sum(f.stat().st_size for f in tiny_trained.loaded.folder.iterdir())
    for sample in report["worst"]:
        for field in sample["fields"]:
            assert [look["name"] for look in field["looks"]] == ["before", "after"]
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_the_same_seed_calibrates_on_the_same_rows(tiny_trained):
    from triptych.compress.passes import Surroundings

    samples = Samples(tiny_trained.splits.table("train"), tiny_trained.loaded.processor, tiny_trained.splits.schema)
    one, two, other = (
        Surroundings(tiny_trained.loaded.model, samples, samples, seed).calibration(20) for seed in (0, 0, 1)
    )
    assert torch.equal(one[0].index, two[0].index)
    assert not torch.equal(one[0].index, other[0].index)


def test_a_matcher_is_squeezed_exported_and_asked_like_any_other_model(matched, tmp_path):
    original = matched.trained
    size = artifact.read_manifest(original.loaded.folder).size_bytes
    plan = plans.Plan(
        passes=(
            plans.Prune(keep={original.loaded.model.widths()[0].name: 4}, rows=24),
            SHORT,
            plans.Quantise(layers=dict.fromkeys(weights(original.loaded.model), "w8a8"), rows=24),
        )
    )
    contract = Contract(keep=0.5, keep_modality=0.0)
    outcome = compress(
        original.loaded, original.splits, tmp_path / "small", budget=Budget(), contract=contract, plan=plan
    )
    assert artifact.read_manifest(tmp_path / "small").size_bytes < size
    assert not outcome.verdict.broken
    assert set(outcome.verdict.modalities) == {"picture", "sound"}
    export_model(tmp_path / "small", "openvino", tmp_path / "exported", matched.folder)
    found = search(tmp_path / "small", matched.folder, [f"picture={matched.folder / '1_10.png'}"], top=1)
    assert found["found"][0]["sound"].startswith("1_")

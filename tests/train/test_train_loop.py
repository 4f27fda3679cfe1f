import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.data.processor import Processor
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.errors import NumericsError, Stopped
from triptych.models.make import make_model
from triptych.train.loop import drop_modalities, train
from triptych.train.settings import OptimizerSettings, TrainSettings


@pytest.fixture
def parts(tiny_data, tiny_recipe):
    splits = read_splits(tiny_data)
    settings = {name: i.features for name, i in tiny_recipe.model.inputs.items()}
    processor = Processor.fit(splits.table("train"), splits.schema, settings)
    rows, valid = (Samples(splits.table(name), processor, splits.schema) for name in ("train", "valid"))
    return lambda: make_model(tiny_recipe.model, processor, rows.labels, 0), rows, valid


def settings(**changes):
    return TrainSettings(**{"steps": 8, "batch_size": 16, "evaluate_every": 4, "checkpoint_seconds": 0, **changes})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values() if p.is_floating_point()])


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(parts):
    make, rows, valid = parts
    models = [make(), make(), make()]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, rows, valid, settings(seed=seed))
    assert torch.equal(weights(models[0]), weights(models[1]))
    assert not torch.equal(weights(models[0]), weights(models[2]))


def test_a_process_trains_at_one_precision_after_another(parts):
    make, rows, valid = parts
    models = [make(), make(), make()]
    for model, precision in zip(models, ("fp32", "bf16", "fp32"), strict=True):
        train(model, rows, valid, settings(precision=precision))
    assert torch.equal(weights(models[0]), weights(models[2]))
    assert not torch.equal(weights(models[0]), weights(models[1]))
    assert torch.allclose(weights(models[0]), weights(models[1]), atol=0.05)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "muon"])
def test_a_stopped_run_continues_to_the_same_weights(parts, tmp_path, optimizer):
    make, rows, valid = parts
    asked = settings(optimizer=OptimizerSettings(name=optimizer))
    whole = make()
    train(whole, rows, valid, asked, folder=tmp_path / "whole")
    stopped = make()
    calls = []

    def stop_at_five(model, batch):
        calls.append(1)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return model(batch.inputs, batch.presence, labels=batch.labels).loss

    with pytest.raises(Stopped, match=r"Training was stopped at step 5 of 8\. A checkpoint is in .*"):
        train(stopped, rows, valid, asked, folder=tmp_path / "part", objective=stop_at_five)
    resumed = make()
    result = train(resumed, rows, valid, asked, folder=tmp_path / "part")
    assert result.steps == 8
    assert torch.equal(weights(whole), weights(resumed))


KILLED = """
import sys, json
from pathlib import Path
from triptych.recipe import Recipe
from triptych.train.run import train_recipe
import torch
torch.set_num_threads(1)
recipe = Recipe.model_validate(json.loads(sys.argv[1]))
train_recipe(recipe, Path(sys.argv[2]))
"""


def test_a_killed_run_continues_to_the_same_bytes(tiny_data, tiny_recipe, tmp_path):
    content = tiny_recipe.model_dump(mode="json")
    content["data"]["path"] = str(tiny_data)
    content["train"].update(steps=12, batch_size=16, checkpoint_seconds=0.0)

    def run(out: Path, seconds: float | None):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, json.dumps(content), str(out)], stdout=subprocess.DEVNULL
        )
        try:
            child.wait(seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    run(tmp_path / "whole", None)
    checkpoints = tmp_path / "killed.work" / "checkpoints" / "CURRENT"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, json.dumps(content), str(tmp_path / "killed")], stdout=subprocess.DEVNULL
    )
    while child.poll() is None and not checkpoints.exists():
        pass
    child.send_signal(signal.SIGKILL)  # at the first checkpoint that is whole
    child.wait()
    run(tmp_path / "killed", None)
    for file in ("model.safetensors", "config.json", "processor.json"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()


def test_a_loss_that_is_not_a_number_stops_with_the_module_where_it_began(parts):
    make, rows, valid = parts
    model = make()
    with torch.no_grad():
        model.encoders["sound"].stem.conv.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(
        NumericsError, match=r"The loss of step 1 is not a finite number: it begins in 'encoders\.sound\.stem\.conv'"
    ):
        train(model, rows, valid, settings())


def test_early_stopping_counts_evaluations_without_gain(parts):
    make, rows, valid = parts
    result = train(
        make(),
        rows,
        valid,
        settings(steps=400, evaluate_every=1, early_stopping=2, optimizer=OptimizerSettings(lr=1e-12)),
    )
    assert result.steps < 400
    assert len(result.history) >= 3


def test_accumulated_batches_make_the_step_of_one_large_batch(parts):
    make, rows, valid = parts

    def frozen_norms(model, batch):  # batch norm would see other batches
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.eval()
        return model(batch.inputs, batch.presence, labels=batch.labels).loss

    plain = {"steps": 1, "modality_dropout": 0.0, "augment": False, "optimizer": OptimizerSettings(name="sgd", lr=0.1)}
    large, small = make(), make()
    start = weights(large)
    train(large, rows, valid, settings(batch_size=32, **plain), objective=frozen_norms)
    train(small, rows, valid, settings(batch_size=16, accumulate=2, **plain), objective=frozen_norms)
    assert not torch.equal(weights(large), start)
    torch.testing.assert_close(weights(small), weights(large), rtol=1e-4, atol=1e-6)


def test_modality_dropout_never_hides_a_samples_last_modality():
    generator = torch.Generator().manual_seed(0)
    presence = torch.tensor([[True, True, True], [False, True, False]]).repeat(500, 1)
    kept = drop_modalities(presence, 0.6, generator)
    assert kept.any(1).all()
    assert not (kept & ~presence).any()
    assert kept[1::2, 1].all()
    share = 1 - kept[::2].float().mean().item()
    assert 0.4 < share < 0.6  # 0.6 hidden, less the draws that would have hidden all three


def test_the_log_holds_every_step_once(parts, tmp_path):
    from triptych.train.log import read_log

    make, rows, valid = parts
    train(make(), rows, valid, settings(), folder=tmp_path)
    log = read_log(tmp_path / "log.jsonl")
    assert [p["step"] for p in log if "loss" in p] == list(range(8))
    assert [p["step"] for p in log if "valid" in p] == [3, 7]
    assert np.isfinite([p["loss"] for p in log if "loss" in p]).all()

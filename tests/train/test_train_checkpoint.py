import json
import subprocess
import sys

import pytest
import torch

from triptych import artifact
from triptych.errors import ArtifactError, InputError, Stopped
from triptych.train.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]


def same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    return torch.equal(a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8))


def test_nothing_was_saved_yet(tmp_path):
    assert load_checkpoint(tmp_path / "steps") is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_of_every_type_comes_back(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    width = torch.empty(0, dtype=dtype).element_size()
    noise = torch.randint(0, 2 if dtype == torch.bool else 256, (24 * width,), dtype=torch.uint8, generator=generator)
    tensors = {
        "plain": noise.view(dtype).reshape(4, 6),  # NaNs with payloads, denormals and negative zeros among them
        "turned": noise.view(dtype).reshape(4, 6).T,
        "part": noise.view(dtype)[5:9],
        "scalar": noise.view(dtype)[0],
        "empty": torch.empty(0, 3, dtype=dtype),
    }
    save_checkpoint(tmp_path, 3, tensors, None)
    loaded = load_checkpoint(tmp_path).tensors
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert same_bits(loaded[name], tensor), name
    used = sum(tensor.numel() for tensor in tensors.values()) * width
    size = (artifact.latest_generation(tmp_path) / "tensors.safetensors").stat().st_size
    assert size < used + 600, "a view is saved alone, without the storage it looks into"


def test_state_comes_back_exactly(tmp_path):
    state = {
        "epoch": 3,
        "loss": [0.1, 1e-320, -0.0, float("inf"), 1 / 3],
        "name": "größer",
        "best": None,
        "order": list(range(5)),
        "flag": True,
    }
    save_checkpoint(tmp_path, 12, {"x": torch.zeros(1)}, state)
    step, _, found = load_checkpoint(tmp_path)
    assert step == 12
    assert found == state
    assert str(found["loss"]) == str(state["loss"])


def test_tied_weights_are_saved_under_both_names(tmp_path):
    weight = torch.randn(3, 4, requires_grad=True)
    save_checkpoint(tmp_path, 1, {"embedding": weight, "head": weight, "row": weight[1]}, {})
    loaded = load_checkpoint(tmp_path).tensors
    assert same_bits(loaded["embedding"], weight.detach())
    assert same_bits(loaded["head"], weight.detach())
    assert same_bits(loaded["row"], weight[1].detach())


def test_the_newest_stay(tmp_path):
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, step, {"x": torch.full((2,), step)}, step)
    assert load_checkpoint(tmp_path).step == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CURRENT", "step-000000010", "step-000000100"]
    (tmp_path / "step-000000100" / "state.json").write_text("{}")
    assert load_checkpoint(tmp_path).step == 10


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, {"x": torch.zeros(1)}, None)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(
        Stopped, match=r"step-000000002 could not be written: No space.*at least 400\d\d bytes and 1000"
    ):
        save_checkpoint(tmp_path, 2, {"x": torch.zeros(10_000)}, None)
    assert load_checkpoint(tmp_path).step == 1


def test_generations_of_something_else_are_not_a_checkpoint(tmp_path):
    artifact.save_generation(tmp_path, "one", lambda folder: (folder / "x").write_text("x"))
    with pytest.raises(ArtifactError, match=r"one is not a checkpoint: it lacks tensors\.safetensors or state\.json"):
        load_checkpoint(tmp_path)


MAKERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.8, 0.95)),
    "Adam with amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=3e-4, weight_decay=0.05),
    "AdamW of two groups": lambda p: torch.optim.AdamW(
        [{"params": p[:1], "weight_decay": 0.0}, {"params": p[1:]}], lr=0.1 / 3
    ),
    "AdamW with its rate in a tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-3)),
}


def model_and_optimizer(make):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(torch.float32)
    return model, make(list(model.parameters()))


def train(model, optimizer, steps, schedule=False):
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20) if schedule else None
    for step in steps:
        x = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        if scheduler:
            scheduler.step()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("before", [0, 4])
def test_training_goes_on_to_the_same_bits(tmp_path, name, before):
    whole, whole_optimizer = model_and_optimizer(MAKERS[name])
    train(whole, whole_optimizer, range(9))

    model, optimizer = model_and_optimizer(MAKERS[name])
    train(model, optimizer, range(before))
    tensors, rest = optimizer_tensors(optimizer)
    save_checkpoint(tmp_path, before, {**{f"model.{k}": v for k, v in model.state_dict().items()}, **tensors}, rest)

    torch.manual_seed(99)
    again, again_optimizer = model_and_optimizer(MAKERS[name])
    loaded = load_checkpoint(tmp_path)
    weights = {k.removeprefix("model."): v for k, v in loaded.tensors.items() if k.startswith("model.")}
    again.load_state_dict(weights)
    restore_optimizer(again_optimizer, loaded.tensors, loaded.state)
    for ours, theirs in zip(again_optimizer.param_groups, optimizer.param_groups, strict=True):
        for key in theirs:
            if key != "params":
                assert ours[key] == theirs[key]
                assert type(ours[key]) is type(theirs[key])
    train(again, again_optimizer, range(before, 9))
    for key, value in whole.state_dict().items():
        assert same_bits(again.state_dict()[key], value), key


def test_a_schedulers_mark_in_the_groups_comes_back():
    model, optimizer = model_and_optimizer(MAKERS["AdamW"])
    train(model, optimizer, range(3), schedule=True)
    tensors, rest = optimizer_tensors(optimizer)
    rest = json.loads(json.dumps(rest))
    other = model_and_optimizer(MAKERS["AdamW"])[1]
    restore_optimizer(other, tensors, rest)
    assert other.param_groups[0]["initial_lr"] == 3e-4
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_a_restored_optimizer_shares_no_memory():
    model, optimizer = model_and_optimizer(MAKERS["Adam"])
    train(model, optimizer, range(2))
    tensors, rest = optimizer_tensors(optimizer)
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    other_model, other = model_and_optimizer(MAKERS["Adam"])
    restore_optimizer(other, tensors, rest)
    train(other_model, other, range(3))
    for name, tensor in tensors.items():
        assert same_bits(tensor, kept[name]), name


def test_another_optimizer_or_model_is_refused():
    model, optimizer = model_and_optimizer(MAKERS["Adam"])
    train(model, optimizer, range(1))
    tensors, rest = optimizer_tensors(optimizer)
    with pytest.raises(ArtifactError, match=r"holds the state of Adam, not of AdamW\. Use the recipe it was made with"):
        restore_optimizer(model_and_optimizer(MAKERS["AdamW"])[1], tensors, rest)
    with pytest.raises(ArtifactError, match="holds the state of None, not of AdamW"):
        restore_optimizer(model_and_optimizer(MAKERS["AdamW"])[1], tensors, None)
    fewer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(2))])
    with pytest.raises(ArtifactError, match=r"groups of \[4\] parameters and this model's of \[1\]"):
        restore_optimizer(fewer, tensors, rest)
    wider = torch.optim.Adam(torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.Linear(9, 2)).parameters())
    with pytest.raises(ArtifactError, match=r"exp_avg of parameter 0 has shape \(8, 4\); the parameter has \(9, 4\)"):
        restore_optimizer(wider, tensors, rest)


def test_a_state_that_json_cannot_hold_is_refused_by_name():
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.LBFGS([parameter])

    def closure():
        optimizer.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(
        InputError, match=r"LBFGS keeps '\w+' as list, which a checkpoint cannot hold\. Use SGD, Adam or"
    ):
        optimizer_tensors(optimizer)


PROGRAM = """
import os, sys
from pathlib import Path
import torch
from triptych.train.checkpoint import load_checkpoint, optimizer_tensors, restore_optimizer, save_checkpoint

def train(folder, kill):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters())
    found = load_checkpoint(folder)
    if found:
        model.load_state_dict({name[6:]: value for name, value in found.tensors.items() if name.startswith("model.")})
        restore_optimizer(optimizer, found.tensors, found.state)
    for step in range(found.step if found else 0, 12):
        if step == kill:
            os.kill(os.getpid(), 9)
        model(torch.full((2, 4), float(step))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        tensors, rest = optimizer_tensors(optimizer)
        tensors |= {"model." + name: value for name, value in model.state_dict().items()}
        save_checkpoint(folder, step + 1, tensors, rest)
    print(model.weight.detach().numpy().tobytes().hex(), flush=True)

torch.set_num_threads(1)
first = torch.nn.Parameter(torch.ones(1))
first.grad = torch.ones(1)
torch.optim.AdamW([first]).step()  # imports a lot
for folder, kill in (("whole", -1), ("killed", 7), ("killed", -1)):
    child = os.fork()  # a process for each, without importing it three times
    if child == 0:
        train(Path(sys.argv[1]) / folder, kill)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_killed_training_ends_in_the_same_bits(tmp_path):
    run = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    whole, first, killed, again, last = run.stdout.split()
    assert [first, killed, last] == ["0", "-9", "0"], run.stderr
    assert again == whole

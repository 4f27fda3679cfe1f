import pytest
import torch
from torch import nn

from triptych.train.optimizer import make_optimizers
from triptych.train.settings import OptimizerSettings


class Model(nn.Module):
    """Each kind of parameter that a model here has."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.rnn = nn.GRU(4, 4)
        self.linear = nn.Linear(4, 6)
        self.centres = nn.Parameter(torch.randn(7, 4))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def names(model, parameters):
    known = {id(p): name for name, p in model.named_parameters()}
    return {known[id(p)] for p in parameters}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_every_trainable_parameter_has_one_optimizer(name):
    model = Model()
    optimizers = make_optimizers(model, OptimizerSettings(name=name))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [p for group in groups for p in group["params"]]
    assert len(parameters) == len({id(p) for p in parameters})
    assert names(model, parameters) == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(group["initial_lr"] == group["lr"] for group in groups)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_decay_falls_on_weights_alone(name):
    model = Model()
    optimizers = make_optimizers(model, OptimizerSettings(name=name, weight_decay=0.5))
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    decayed = [p for group in groups for p in group["params"] if group["weight_decay"] == 0.5]
    free = [p for group in groups for p in group["params"] if group["weight_decay"] == 0]
    expected = {"embed.weight", "conv.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "linear.weight"}
    assert names(model, decayed) == expected
    assert "centres" in names(model, free)


def test_muon_takes_the_weight_matrices_and_adamw_the_rest():
    model = Model()
    muon, adamw = make_optimizers(model, OptimizerSettings(name="muon", lr=1e-3, matrix_lr=1e-2))
    assert isinstance(muon, torch.optim.Muon)
    assert isinstance(adamw, torch.optim.AdamW)
    matrices = names(model, [p for group in muon.param_groups for p in group["params"]])
    assert matrices == {"rnn.weight_ih_l0", "rnn.weight_hh_l0", "linear.weight"}
    assert {group["lr"] for group in muon.param_groups} == {1e-2}
    assert {group["lr"] for group in adamw.param_groups} == {1e-3}


def test_muon_moves_every_direction_of_a_matrix_alike():
    """A gradient whose singular values are far apart becomes a step whose singular values are close."""
    model = nn.Linear(16, 16, bias=False)
    before = model.weight.detach().clone()
    (optimizer,) = make_optimizers(model, OptimizerSettings(name="muon", weight_decay=0.0))
    left, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))
    right, _ = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))
    model.weight.grad = left @ torch.logspace(0, -1, 16).diag() @ right.T
    optimizer.step()
    step = torch.linalg.svdvals((model.weight.detach() - before).double())
    assert step[0] / step[-1] < 2.5
    assert torch.linalg.cond(model.weight.grad.double()) > 9.9


def test_a_model_without_matrices_is_left_to_adamw():
    (optimizer,) = make_optimizers(nn.Conv1d(2, 2, 1), OptimizerSettings(name="muon"))
    assert isinstance(optimizer, torch.optim.AdamW)

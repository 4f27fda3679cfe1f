import pytest
import torch
from torch import nn

from triptych.compress.prune.refit import refitted, shrink_and_refit
from triptych.errors import InputError, NumericsError
from triptych.structure import Member, Width

HIDDEN = Width("hidden", 6, (Member("0.weight", 0), Member("0.bias", 0)), (Member("2.weight", 1),))


def statistics(x):
    x = x.detach().flatten(0, -2).double()
    return x.T @ x / len(x), x.mean(0)


def perceptron():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
    return net, torch.randn(200, 3)


def test_refitting_beats_plain_removal_and_says_by_how_much():
    net, x = perceptron()
    before, keep = net(x), torch.tensor([0, 2, 3])
    moments, means = statistics(net[:2](x))
    errors = {}
    for repair in ("none", "weight", "both"):
        copy, _ = perceptron()
        said = shrink_and_refit(
            copy,
            HIDDEN,
            keep,
            {} if repair == "none" else {"2.weight": moments},
            {"2.weight": means} if repair == "both" else None,
            damping=1e-9,
        )
        errors[repair] = float((copy(x) - before).detach().square().mean())
        if repair == "both":
            assert said["2.weight"] == pytest.approx(
                errors[repair] / float(before.detach().var(0, correction=0).mean()), rel=1e-4
            )
    assert errors["both"] < errors["weight"] < errors["none"]


def test_a_redundant_unit_is_replaced_exactly():
    net, x = perceptron()
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5] = net[0].weight[1], net[0].bias[1]
    before = net(x)
    moments, _ = statistics(net[:2](x))
    shrink_and_refit(net, HIDDEN, torch.arange(5), {"2.weight": moments}, damping=1e-12)
    torch.testing.assert_close(net(x), before)


def test_removing_a_constant_input_only_moves_the_bias():
    weight, bias = torch.randn(2, 3).double(), torch.randn(2).double()
    x = torch.randn(50, 3).double()
    x[:, 1] = 4.0
    moments, means = statistics(x)
    found = refitted(weight, moments, torch.tensor([0, 2]), bias=bias, means=means, damping=0.0)
    torch.testing.assert_close(found.weight, weight[:, [0, 2]])
    torch.testing.assert_close(found.bias, bias + 4 * weight[:, 1])
    assert found.error == pytest.approx(0, abs=1e-12)


def test_removing_nothing_or_knowing_nothing_changes_nothing():
    weight = torch.randn(3, 4)
    moments, _ = statistics(torch.randn(20, 4))
    everything = refitted(weight, moments, torch.arange(4), damping=0.5)
    assert torch.equal(everything.weight, weight.double())
    assert everything.error == 0
    nothing = refitted(weight, torch.zeros(4, 4), torch.tensor([1, 3]))
    assert torch.equal(nothing.weight, weight[:, [1, 3]].double())


def test_dead_inputs_do_not_stop_an_undamped_fit():
    x = torch.randn(30, 4)
    x[:, 0] = 0
    moments, _ = statistics(x)
    found = refitted(torch.randn(2, 4), moments, torch.tensor([0, 1]), damping=0.0)
    assert bool(found.weight.isfinite().all())


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_recurrent_inputs_and_states_are_refitted(kind):
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.read = nn.Linear(3, 5)
            self.rnn = getattr(nn, kind)(5, 6, batch_first=True)
            self.head = nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.rnn(self.read(x).tanh())[0])

    net, x = Net(), torch.randn(60, 7, 3)
    with torch.no_grad():
        for name in ("weight_ih_l0", "bias_ih_l0", "weight_hh_l0", "bias_hh_l0"):  # unit 4 repeats unit 2
            rows = getattr(net.rnn, name).unflatten(0, (-1, 6))
            rows[:, 4] = rows[:, 2]
        net.read.weight[3], net.read.bias[3] = net.read.weight[0], net.read.bias[0]  # input 3 repeats input 0
    before = net(x)
    inputs = net.read(x).tanh()
    states = net.rnn(inputs)[0]
    earlier = torch.cat([torch.zeros(60, 1, 6), states[:, :-1]], 1)
    found = {"rnn.weight_ih_l0": inputs, "rnn.weight_hh_l0": earlier, "head.weight": states}
    moments = {name: statistics(value)[0] for name, value in found.items()}
    gates = 4 if kind == "LSTM" else 3
    rows = tuple(Member(f"rnn.{p}_l0", 0, repeat=gates) for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    state = Width("state", 6, rows, (Member("rnn.weight_hh_l0", 1), Member("head.weight", 1)))
    read = Width("read", 5, (Member("read.weight", 0), Member("read.bias", 0)), (Member("rnn.weight_ih_l0", 1),))
    means = {name: statistics(value)[1] for name, value in found.items()}
    errors = shrink_and_refit(net, read, torch.tensor([0, 1, 2, 4]), moments, means, damping=1e-12)
    errors |= shrink_and_refit(net, state, torch.tensor([0, 1, 2, 3, 5]), moments, means, damping=1e-12)
    assert set(errors) == set(found)
    assert max(errors.values()) < 1e-6
    assert (net.rnn.input_size, net.rnn.hidden_size) == (4, 5)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


def test_a_layer_without_bias_keeps_none():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4, bias=False))
    moments, means = statistics(net[:2](torch.randn(50, 3)))
    shrink_and_refit(net, HIDDEN, torch.tensor([0, 5]), {"2.weight": moments}, {"2.weight": means})
    assert net[2].bias is None
    assert net[2].weight.shape == (4, 2)


def test_moments_of_an_earlier_model_are_refused():
    net, x = perceptron()
    moments, _ = statistics(net[:2](x))
    shrink_and_refit(net, HIDDEN, torch.arange(5), {"2.weight": moments})
    with pytest.raises(InputError, match=r"The moments of '2\.weight' are \(1, 6, 6\) where \(1, 5, 5\) are needed"):
        shrink_and_refit(net, HIDDEN._replace(units=5), torch.arange(4), {"2.weight": moments})


def test_a_consumer_that_does_not_multiply_is_refused():
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6))
    width = HIDDEN._replace(consumers=(Member("1.weight", 0),))
    with pytest.raises(InputError, match=r"'1\.weight' does not multiply its input"):
        shrink_and_refit(net, width, torch.arange(2), {"1.weight": torch.eye(6)})
    assert net[0].out_features == 6


def test_impossible_moments_are_refused():
    keep = torch.tensor([0])
    with pytest.raises(NumericsError, match="are not finite"):
        refitted(torch.ones(1, 2), torch.full((2, 2), torch.nan), keep)
    with pytest.raises(NumericsError, match="are not positive"):
        refitted(torch.ones(1, 2), torch.eye(2), keep, bias=torch.zeros(1), means=torch.full((2,), 3.0))

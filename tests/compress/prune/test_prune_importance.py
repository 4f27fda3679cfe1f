import math

import pytest
import torch
from torch import nn

from triptych.compress.prune import Magnitude, Taylor
from triptych.errors import InputError, NumericsError
from triptych.registry import find
from triptych.structure import Member, Width

PRODUCERS = (Member("0.weight", 0), Member("0.bias", 0))
WIDTH = Width("hidden", 3, PRODUCERS, (Member("3.weight", 1),))


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1.0, -1.0]]))
    return net


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, generator=generator) for _ in range(3)]


def loss(model, batch):
    return model(batch).square().mean()


def test_both_are_registered():
    assert find("importance", "magnitude") is Magnitude
    assert find("importance", "taylor") is Taylor


def test_magnitude_is_the_norm_of_a_units_weights():
    assert Magnitude().score(network(), [WIDTH])["hidden"].tolist() == pytest.approx([5, 0, math.sqrt(2)])
    absolute = Magnitude(Magnitude.Config(order=1)).score(network(), [WIDTH], batches(), loss)
    assert absolute["hidden"].tolist() == [7, 0, 2]


def test_magnitude_of_a_width_that_only_scales():
    net = network()
    nn.init.constant_(net[1].weight, 2.0)
    made = (Member("1.weight", 0), Member("1.running_var", 0))
    assert Magnitude().score(net, [Width("w", 3, made, ())])["w"].tolist() == [2, 2, 2]


def test_a_tied_weight_counts_once():
    net = network()
    width = WIDTH._replace(producers=(*PRODUCERS, *PRODUCERS))
    for measure in (Magnitude(), Taylor()):
        assert torch.equal(
            measure.score(net, [WIDTH], batches(), loss)["hidden"],
            measure.score(net, [width], batches(), loss)["hidden"],
        )


def test_a_unit_that_is_not_read_has_no_taylor_importance():
    net = network()
    with torch.no_grad():
        net[3].weight[0, 1] = 0
    scores = Taylor().score(net, [WIDTH], batches(), loss)["hidden"]
    assert scores[1] == 0
    assert bool((scores[[0, 2]] > 0).all())


def test_scoring_leaves_no_trace():
    net = network().train()
    net[2].eval()
    net[0].bias.requires_grad_(False)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with torch.no_grad():
        first = Taylor().score(net, [WIDTH], batches(), loss)["hidden"]
        assert torch.equal(first, Taylor().score(net, [WIDTH], batches(), loss)["hidden"])  # no dropout
    assert [module.training for module in net.modules()] == [True, True, True, False, True]
    assert [p.requires_grad for p in net.parameters()] == [True, False, True, True, True, True]
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def test_taylor_needs_batches():
    with pytest.raises(InputError, match="There are no calibration batches"):
        Taylor().score(network(), [WIDTH], [], loss)


@pytest.mark.parametrize("value", [lambda model: model[3].bias.sum(), lambda _: torch.zeros(())])
def test_a_width_that_the_loss_does_not_see_is_named(value):
    with pytest.raises(InputError, match="No gradient reaches width 'hidden'"):
        Taylor().score(network(), [WIDTH], batches(), lambda model, _: value(model))


def test_a_loss_that_is_not_finite_names_the_batch():
    bad = [*batches(), torch.full((4, 2), torch.nan)]
    with pytest.raises(NumericsError, match="The loss of calibration batch 3 is not finite"):
        Taylor().score(network(), [WIDTH], bad, loss)


def test_a_width_of_another_model_is_refused():
    with pytest.raises(InputError, match=r"Width 'hidden' says 4 for axis 0 of '0\.weight', whose shape is \(3, 2\)"):
        Magnitude().score(network(), [WIDTH._replace(units=4)])
    with pytest.raises(InputError, match=r"The model has no tensor '9\.weight'"):
        Taylor().score(network(), [Width("w", 3, (Member("9.weight", 0),), ())], batches(), loss)

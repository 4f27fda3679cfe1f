import pytest
import torch
from torch import nn

from triptych.compress.prune import Masks, Sparse, from_sparse, magnitude_masks, to_sparse
from triptych.errors import ArtifactError, InputError

NAMES = ["0.weight", "1.weight"]


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5))
    with torch.no_grad():
        net[1].weight.mul_(100)
    return net


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.9])
def test_exactly_the_smallest_weights_of_each_layer_go(sparsity):
    net = network()
    before = [net[i].weight.detach().clone() for i in (0, 1)]
    masks = magnitude_masks(net, NAMES, sparsity)
    masks.apply_(net)
    for i, old in enumerate(before):
        new = net[i].weight
        gone = round(sparsity * old.numel())
        assert int((new == 0).sum()) == gone
        assert set(old.abs().flatten().sort().values[:gone].tolist()) == set(old[new == 0].abs().tolist())
        assert torch.equal(new[new != 0], old[new != 0])
    assert masks.sparsity == pytest.approx(sparsity)


def test_globally_small_layers_lose_more():
    masks = magnitude_masks(network(), NAMES, 0.5, scope="global")
    kept = {name: float(mask.float().mean()) for name, mask in masks.masks.items()}
    assert kept["0.weight"] < kept["1.weight"]
    assert masks.sparsity == 0.5


def test_equal_weights_go_in_order():
    net = nn.Linear(8, 1)
    nn.init.ones_(net.weight)
    assert magnitude_masks(net, ["weight"], 0.5).masks["weight"].tolist() == [[False] * 4 + [True] * 4]


def test_masks_hold_through_fine_tuning():
    net = network()
    masks = magnitude_masks(net, NAMES, 0.6)
    masks.apply_(net)
    optimiser = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        net(torch.ones(4, 10)).square().mean().backward()
        optimiser.step()
        masks.apply_(net)
    for i, name in enumerate(NAMES):
        assert torch.equal(net[i].weight != 0, masks.masks[name])


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="A sparsity of 1 is not a share"):
        magnitude_masks(network(), NAMES, 1.0)
    with pytest.raises(InputError, match=r"would remove every weight of '0\.weight'.*scope"):
        magnitude_masks(network(), NAMES, 0.9, scope="global")
    with pytest.raises(InputError, match=r"The mask of '0\.weight' has shape \(2,\), the weight \(20, 10\)"):
        Masks({"0.weight": torch.ones(2, dtype=torch.bool)}).apply_(network())
    assert Masks({}).sparsity == 0
    assert magnitude_masks(network(), [], 0.5, scope="global").masks == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int8])
@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (8,), (2, 3, 5), (0, 4)])
def test_sparse_storage_returns_the_same_tensor(dtype, shape):
    generator = torch.Generator().manual_seed(sum(shape))
    tensor = (5 * torch.randn(shape, generator=generator)).to(dtype)
    tensor[torch.rand(shape, generator=generator) < 0.6] = 0
    back = from_sparse(to_sparse(tensor))
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


def test_bits_are_least_significant_first():
    sparse = to_sparse(torch.tensor([1.0, 0, 0, 2.0, 0, 0, 0, 0, 3.0]))
    assert sparse.bits.tolist() == [0b1001, 0b1]
    assert sparse.values.tolist() == [1, 2, 3]


def test_sparse_storage_saves_bytes_only_when_enough_is_zero():
    dense = torch.ones(64, 64)
    assert to_sparse(dense).nbytes == dense.nbytes * 33 // 32
    dense[:, 8:] = 0
    assert to_sparse(dense).nbytes == dense.nbytes // 8 + dense.numel() // 8


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: s._replace(values=s.values[1:]),
        lambda s: s._replace(bits=s.bits[:-1]),
        lambda s: s._replace(bits=s.bits ^ 128),
        lambda s: s._replace(shape=(3, 7)),
    ],
)
def test_damaged_storage_is_refused_by_name(damage):
    sparse = to_sparse(torch.arange(10.0))
    assert isinstance(sparse, Sparse)
    with pytest.raises(ArtifactError, match=r"The bits of head\.weight do not match its \d values and its shape"):
        from_sparse(damage(sparse), "head.weight")

"""What every fusion promises the model, the exporters and the compressor."""

import copy

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import triptych.fusion  # noqa: F401 - files the fusions in the registry
from triptych.errors import InputError
from triptych.fusion.attention import AttentionFusion
from triptych.registry import find, names

WIDTH = 8
CASES = {
    "concat": ("concat", {}, 3 * WIDTH),
    "concat, hidden": ("concat", {"hidden": 10}, 10),
    "mean": ("mean", {}, WIDTH),
    "weighted": ("weighted", {}, WIDTH),
    "gated": ("gated", {}, WIDTH),
    "gated, sigmoid": ("gated", {"gate": "sigmoid"}, WIDTH),
    "attention": ("attention", {"heads": 4}, WIDTH),
    "attention, concat": ("attention", {"heads": 2, "pool": "concat"}, 3 * WIDTH),
    "bilinear": ("bilinear", {"rank": 5}, 3 * WIDTH + 3 * 5),
    "bilinear, sums": ("bilinear", {"rank": 6, "window": 3, "vectors": False}, 3 * 2),
}
every = pytest.mark.parametrize("case", CASES)
averaging = pytest.mark.parametrize("case", ["mean", "weighted", "gated", "gated, sigmoid", "attention"])


def build(case, modalities=3):
    name, settings, _ = CASES[case]
    torch.manual_seed(0)
    component = find("fusion", name)
    fusion = component(component.Config(**settings), modalities, WIDTH)
    with torch.no_grad():
        for parameter in fusion.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return fusion.eval()


def sample(batch, modalities=3):
    z = torch.randn(batch, modalities, WIDTH)
    presence = torch.rand(batch, modalities) < 0.6
    presence[0] = False
    return z, presence


def test_all_are_registered():
    assert set(names("fusion")) >= {"concat", "mean", "weighted", "gated", "attention", "bilinear"}


@every
def test_shapes(case):
    fusion = build(case)
    assert fusion.out_width == CASES[case][2]
    fused = fusion(*sample(5))
    assert fused.shape == (5, fusion.out_width)
    assert torch.isfinite(fused).all()


@every
def test_one_modality_is_enough(case):
    fusion = build(case, modalities=1)
    z, presence = sample(4, modalities=1)
    assert fusion(z, presence).shape == (4, fusion.out_width)


@every
def test_gradients_reach_every_parameter_and_every_present_vector(case):
    fusion = build(case).train()
    z, presence = sample(6)
    presence[1:3] = True
    fusion(z.requires_grad_(), presence).sin().sum().backward()
    for name, parameter in fusion.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        # A bias of the keys moves all scores of a query alike, which softmax does not see: its gradient is rounding.
        assert parameter.grad.abs().max() > 0 or name.endswith("k.bias"), name
    assert (z.grad[presence].abs().amax(dim=1) > 0).all()


@averaging
def test_an_absent_modality_weighs_nothing(case):
    fusion = build(case)
    z, presence = sample(7)
    presence[1] = torch.tensor([True, False, True])
    z.requires_grad_()
    # The gates are computed from all vectors, tokens of absent modalities included; what passes them is not.
    inputs = fusion.values if case.startswith("gated") else None
    fused = fusion(z, presence)
    if inputs is None:
        fused.sum().backward()
        assert z.grad[1, 1].abs().max() == 0
    else:
        blind = copy.deepcopy(fusion)
        nn.init.zeros_(blind.values[1].weight)
        nn.init.ones_(blind.values[1].bias)
        assert torch.equal(blind(z, presence)[1], fused[1])
        assert not torch.allclose(blind(z, presence)[0], fused[0])


@averaging
def test_where_all_are_absent_all_tokens_count(case):
    fusion = build(case)
    z, presence = sample(4)
    everything = presence.clone()
    everything[0] = True
    assert torch.equal(fusion(z, presence), fusion(z, everything))


def test_no_product_with_an_absent_modality():
    fusion = build("bilinear")
    z, presence = sample(2)
    presence[1] = torch.tensor([True, False, True])
    vectors, products = fusion(z, presence).split([3 * WIDTH, 3 * 5], dim=1)
    assert torch.equal(vectors, z.flatten(1))
    first, both, last = products[1].split(5)
    assert not first.any()
    assert both.all()
    assert not last.any()


@every
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning:jaxtyping.*")  # shape checks, not our code
def test_a_trace_takes_another_batch_size(case):
    fusion = build(case)
    traced = torch.jit.trace(fusion, sample(2), check_trace=False)
    z, presence = sample(5)
    assert torch.allclose(traced(z, presence), fusion(z, presence), atol=1e-6)


@pytest.mark.parametrize("case", ["concat", "mean", "weighted", "gated", "attention", "bilinear"])
def test_an_export_takes_another_batch_size(case):
    fusion = build(case)
    batch = Dim("batch")
    program = export(fusion, sample(2), dynamic_shapes=({0: batch}, {0: batch}))
    z, presence = sample(5)
    assert torch.allclose(program.module()(z, presence), fusion(z, presence), atol=1e-6)


def test_removing_heads_equals_not_reading_them():
    fusion = build("attention")
    (heads,) = fusion.widths()
    assert (heads.name, heads.units) == ("attention.heads", 4)
    head_dim = WIDTH // 4
    kept = torch.tensor([u * head_dim + s for u in (0, 2) for s in range(head_dim)])
    removed = torch.tensor([u * head_dim + s for u in (1, 3) for s in range(head_dim)])
    pruned, blind = copy.deepcopy(fusion), copy.deepcopy(fusion)
    for member in heads.producers + heads.consumers:
        owner, leaf = member.parameter.rsplit(".", 1)
        tensor = fusion.get_parameter(member.parameter).data
        setattr(pruned.get_submodule(owner), leaf, nn.Parameter(tensor.index_select(member.axis, kept)))
    for member in heads.consumers:
        blind.get_parameter(member.parameter).data.index_fill_(member.axis, removed, 0)
    z, presence = sample(5)
    assert torch.allclose(pruned(z, presence), blind(z, presence), atol=1e-5)
    assert not torch.allclose(pruned(z, presence), fusion(z, presence), atol=1e-3)
    assert pruned.widths()[0].units == 2


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("attention")])
def test_the_others_have_no_width_of_their_own(case):
    assert build(case).widths() == []


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"Attention of width 8 cannot be cut into 3 equal heads. Choose a number"):
        AttentionFusion(AttentionFusion.Config(heads=3), 3, WIDTH)

"""The slow, obvious way to remove units from a width: every member's indices, spelled out one by one."""

import copy

import pytest
import torch
from torch import nn


def indices(member, units, chosen):
    """The places of the chosen units along the member's axis."""
    return [
        r * units * member.span + u * member.span + s
        for r in range(member.repeat)
        for u in chosen
        for s in range(member.span)
    ]


def replace(module, name, value):
    """Put another tensor in the place of a parameter or buffer."""
    owner, _, leaf = name.rpartition(".")
    owner = module.get_submodule(owner)
    setattr(owner, leaf, nn.Parameter(value) if leaf in owner._parameters else value)
    if isinstance(owner, nn.RNNBase):  # it checks its input against these
        owner.hidden_size, owner.input_size = owner.weight_hh_l0.shape[1], owner.weight_ih_l0.shape[1]


def smaller(module, width, kept):
    """A copy that has only the kept units of a width."""
    module = copy.deepcopy(module)
    for member in width.producers + width.consumers:
        tensor = module.state_dict()[member.parameter]
        assert tensor.shape[member.axis] == width.units * member.span * member.repeat, member
        places = torch.tensor(indices(member, width.units, kept))
        replace(module, member.parameter, tensor.index_select(member.axis, places))
    return module


def blind(module, width, removed):
    """A copy in which nothing reads the removed units: their columns are zero in every consumer."""
    module = copy.deepcopy(module)
    for member in width.consumers:
        tensor = module.state_dict()[member.parameter]
        tensor.index_fill_(member.axis, torch.tensor(indices(member, width.units, removed)), 0)
    return module


@pytest.fixture
def prune_both_ways():
    """(module, width) -> the copy without every second unit, and the copy that does not read them."""

    def both(module, width):
        kept, removed = range(0, width.units, 2), range(1, width.units, 2)
        return smaller(module, width, kept), blind(module, width, removed)

    return both

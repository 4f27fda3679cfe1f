"""Every weight is rounded or stays dense for a reason that is told."""

import pytest
import torch
from torch import nn

from triptych.compress.choose import choose
from triptych.errors import InputError
from triptych.models.components import Component


class Experts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stacked = nn.Parameter(torch.zeros(2, 8, 8))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 2), "mix": nn.Linear(8, 8), "unused": nn.Linear(8, 8)})
        self.words = nn.ModuleDict({"table": nn.Embedding(10, 8), "mix": nn.Linear(8, 8), "experts": Experts()})
        self.out = nn.ModuleDict({"tied": nn.Linear(8, 10, bias=False), "free": nn.Linear(8, 4)})
        self.out["tied"].weight = self.words["table"].weight


PARTS = [
    Component("image.encoder", "encoder", ("image",), prefixes=("eye",)),
    Component("decoder", "decoder", ("text", "image"), prefixes=("words",)),
    Component("head", "head", ("text",), prefixes=("out",)),
]
CALLED = {"eye.mix", "words.mix", "out.tied", "out.free"}


def test_defaults_follow_the_role() -> None:
    choice = choose(Model(), PARTS, CALLED)
    assert choice.layers == {"eye.mix.weight": "w8a8t", "words.mix.weight": "w4g64"}
    assert choice.dense == {
        "eye.stem.weight": "read by Conv2d: the format stores weights of linear layers",
        "eye.unused.weight": "its layer did not run in a forward pass",
        "words.table.weight": "a look-up table",
        "words.experts.stacked": "read by Experts: the format stores weights of linear layers",
        "out.free.weight": "left dense by the plan",
    }
    assert choice.component["eye.mix.weight"] == "image.encoder"
    assert choice.reasons()["decoder"] == {
        "a look-up table": 1,
        "read by Experts: the format stores weights of linear layers": 1,
    }


def test_the_last_pattern_wins() -> None:
    choice = choose(Model(), PARTS, CALLED, {"*": "w8", "*.encoder": "fp32", "head": "w3g8z"})
    assert choice.layers == {"words.mix.weight": "w8", "out.free.weight": "w3g8z"}
    assert choice.dense["eye.mix.weight"] == "left dense by the plan"


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match=r"'audio\.\*', which matches nothing.*image\.encoder, decoder, head"):
        choose(Model(), PARTS, CALLED, {"audio.*": "w8"})


def test_a_word_that_is_no_scheme_is_an_error() -> None:
    with pytest.raises(InputError, match="'w9' is not a scheme"):
        choose(Model(), PARTS, CALLED, {"head": "w9"})

"""Every fusion gives the same answers in OpenVINO as in PyTorch, whatever the number of rows."""

import numpy as np
import pytest
import torch
from torch import nn

from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.registry import find

CASES = {
    "concat": {},
    "mean": {},
    "weighted": {},
    "gated": {},
    "attention": {"heads": 2},
    "bilinear": {"rank": 8},
    "bilinear, sums": {"rank": 8, "window": 4, "vectors": False},
}


class Fused(nn.Module):
    """Two vectors of each sample, fused and read by a linear layer."""

    def __init__(self, case):
        super().__init__()
        component = find("fusion", case.partition(",")[0])
        self.fusion = component(component.Config(**CASES[case]), 2, 8)
        self.head = nn.Linear(self.fusion.out_width, 3)

    def forward(self, inputs, presence):
        return self.head(self.fusion(torch.stack([inputs["a"], inputs["b"]], dim=1), presence))


def rows(count, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: torch.randn(count, 8, generator=generator) for name in "ab"}
    return inputs, torch.rand(count, 2, generator=generator) < 0.7


@pytest.mark.parametrize("case", CASES)
def test_answers_do_not_depend_on_the_engine_or_the_number_of_rows(case):
    torch.manual_seed(0)
    model = Fused(case)
    model(*rows(16, 1))  # statistics for the norms
    model.eval()
    engine, reference = OpenVINOEngine(model, rows(2, 2), threads=1), TorchEngine(model)
    for count in (1, 2, 7, 64):
        batch = rows(count, count)
        np.testing.assert_allclose(engine(*batch), reference(*batch), rtol=1e-4, atol=1e-5)

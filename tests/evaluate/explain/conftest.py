"""Models that are trained for a moment on a task in which it is known what decides."""

import pytest
import torch

from evaluate.explain.known import ENCODERS, build, draw


@pytest.fixture(scope="session", params=ENCODERS)
def trained(request):
    """A model that answers rightly, as there is no other way to be right, from the patch and the word."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = build(*ENCODERS[request.param]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(120):
        batch, _, _ = draw(64, seed=step)
        presence = torch.rand(batch.presence.shape) > 0.1
        optimizer.zero_grad()
        model(batch.inputs, presence, batch.labels).loss.backward()
        optimizer.step()
    return model.eval()

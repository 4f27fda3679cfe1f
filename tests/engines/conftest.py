"""A small three-modality model in the shape of ours: called as model(inputs, presence), returning an object with logits."""

from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from triptych.compress.quantize import layers, moments
from triptych.compress.quantize.rounding import quantize_weight


class Block(nn.Module):
    def __init__(self, channels, out):
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, stride=2 if channels != out else 1, padding=1)
        self.second = nn.Conv2d(out, out, 3, padding=1)
        self.depthwise = nn.Conv2d(out, out, 3, padding=1, groups=out)
        self.shortcut = nn.Conv2d(channels, out, 1, stride=2) if channels != out else nn.Identity()

    def forward(self, x):
        y = self.depthwise(self.second(torch.relu(self.first(x))))
        return torch.relu(y + self.shortcut(x))


class Small(nn.Module):
    """Residual image part, embedding with a convolution for text, recurrent layers for sound."""

    def __init__(self):
        super().__init__()
        self.stem, self.block, self.same = nn.Conv2d(3, 16, 3, padding=1), Block(16, 24), Block(24, 24)
        self.words, self.steps = nn.Embedding(50, 32), nn.Conv1d(32, 24, 3, padding=1)
        self.lstm = nn.LSTM(20, 12, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(24, 24, batch_first=True)
        self.absent = nn.Parameter(torch.randn(3, 24))
        self.mix, self.head = nn.Linear(72, 64), nn.Linear(64, 5)

    def forward(self, inputs, presence):
        image = self.same(self.block(torch.relu(self.stem(inputs["image"])))).mean((2, 3))
        text = torch.relu(self.steps(self.words(inputs["text"]).transpose(1, 2))).mean(2)
        sound = self.gru(self.lstm(inputs["sound"])[0])[0].mean(1)
        z = torch.where(presence[..., None], torch.stack([image, text, sound], 1), self.absent)
        return SimpleNamespace(logits=self.head(torch.relu(self.mix(z.flatten(1)))))


def batch(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "image": torch.randn(size, 3, 16, 16, generator=generator),
        "text": torch.randint(0, 50, (size, 9), generator=generator),
        "sound": torch.randn(size, 6, 20, generator=generator),
    }
    return inputs, torch.rand(size, 3, generator=generator) > 0.2


@pytest.fixture(scope="session")
def small():
    torch.manual_seed(0)
    return Small().eval()


@pytest.fixture(scope="session")
def make_batch():
    return batch


@pytest.fixture(scope="session")
def choose(small):
    """Rounded weights: choose(scheme of Linear and Conv, scheme of the rest), None leaving them dense."""
    found = moments.collect(small, [batch(16, seed) for seed in (1, 2)])

    @cache
    def choose(products, others=None):
        chosen = {}
        for name, view in layers.weights(small).items():
            scheme = products if view.kind in ("linear", "convolution") else others
            if scheme is not None:
                chosen[name] = quantize_weight(view, scheme, found[name])
        return chosen

    return choose

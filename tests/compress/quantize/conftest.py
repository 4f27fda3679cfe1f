"""One small model with every kind of compressible layer."""

import pytest
import torch
from torch import nn


class Zoo(nn.Module):
    """Image, text and sequence parts, joined by a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4, stride=2, bias=False)
        self.words = nn.Embedding(20, 6, padding_idx=0)
        self.steps = nn.Conv1d(6, 10, 3, padding="same")
        self.lstm = nn.LSTM(10, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(10, 4, batch_first=True)
        self.query = nn.Linear(4, 4)
        self.key = nn.Linear(4, 4)
        self.head = nn.Linear(12 + 4, 3)

    def forward(self, image, text):
        picture = self.grouped(torch.relu(self.norm(self.conv(image)))).mean((2, 3))
        sequence = self.steps(self.words(text).transpose(1, 2)).transpose(1, 2)
        sequence = self.gru(self.lstm(sequence)[0])[0]
        sequence = (self.query(sequence) + self.key(sequence)).mean(1)
        return self.head(torch.cat([picture, sequence], 1))


@pytest.fixture
def zoo():
    torch.manual_seed(0)
    model = Zoo()
    model.norm.running_mean.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randn(4, 3, 8, 8, generator=generator),
            "text": torch.randint(0, 20, (4, 7), generator=generator),
        }
        for _ in range(3)
    ]

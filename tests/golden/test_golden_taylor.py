"""Taylor importance against loops over batches, units, members and entries, with gradients left in `.grad`."""

import pytest
import torch
from torch import nn

from triptych.compress.prune.taylor import Taylor
from triptych.structure import Member, Width


class Net(nn.Module):
    """conv - batch norm - LSTM over columns - linear, of random sizes."""

    def __init__(self, channels, height, hidden, kind):
        super().__init__()
        self.conv = nn.Conv2d(1, channels, (1, 3), padding=(0, 1))
        self.norm = nn.BatchNorm2d(channels)
        self.rnn = getattr(nn, kind)(channels * height, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 2)

    def forward(self, x):
        y = self.norm(self.conv(x)).tanh()
        return self.head(self.rnn(y.flatten(1, 2).transpose(1, 2))[0].mean(1))


def widths_of(net, channels, height, hidden):
    gates = 4 if isinstance(net.rnn, nn.LSTM) else 3
    made = ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
    rows = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return [
        Width("channels", channels, tuple(Member(p, 0) for p in made), (Member("rnn.weight_ih_l0", 1, span=height),)),
        Width(
            "state",
            hidden,
            tuple(Member(f"rnn.{p}", 0, repeat=gates) for p in rows),
            (Member("rnn.weight_hh_l0", 1), Member("head.weight", 1)),
        ),
    ]


def loss(model, batch):
    x, y = batch
    return (model(x) - y).square().mean()


def slow_scores(net, width, batches, change):
    parameters = dict(net.named_parameters())
    scores = [0.0] * width.units
    for batch in batches:
        net.zero_grad()
        loss(net, batch).backward()
        for unit in range(width.units):
            total = 0.0
            for member in width.producers:
                if member.parameter not in parameters:
                    continue
                weight = parameters[member.parameter].detach().movedim(member.axis, 0)
                gradient = parameters[member.parameter].grad.movedim(member.axis, 0)
                for r in range(member.repeat):
                    for s in range(member.span):
                        index = r * width.units * member.span + unit * member.span + s
                        for w, g in zip(
                            weight[index].flatten().tolist(), gradient[index].flatten().tolist(), strict=True
                        ):
                            total += w * g
            scores[unit] += (total**2 if change == "squared" else abs(total)) / len(batches)
    net.zero_grad()
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(12))
def test_taylor_equals_the_sum_written_out(seed):
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    channels, height, hidden, count = (int(torch.randint(1, 5, (), generator=generator)) for _ in range(4))
    net = Net(channels, height, hidden, ("LSTM", "GRU")[seed % 2]).double().eval()
    nn.init.uniform_(net.norm.running_mean)
    batches = [(torch.randn(3, 1, height, 4).double(), torch.randn(3, 2).double()) for _ in range(count)]
    widths = widths_of(net, channels, height, hidden)
    for change in ("squared", "absolute"):
        scores = Taylor(Taylor.Config(change=change)).score(net, widths, batches, loss)
        for width in widths:
            torch.testing.assert_close(
                scores[width.name], slow_scores(net, width, batches, change), rtol=1e-10, atol=1e-18
            )

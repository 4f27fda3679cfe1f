"""Statistics against direct sums over what each weight is multiplied with."""

import copy

import pytest
import torch
from torch import nn

from triptych.compress.quantize import moments
from triptych.compress.quantize.layers import weights
from triptych.errors import InputError, NumericsError

NAMES = {
    "conv.weight",
    "grouped.weight",
    "words.weight",
    "steps.weight",
    *(f"lstm.weight_{part}_l{layer}{side}" for part in ("ih", "hh") for layer in (0, 1) for side in ("", "_reverse")),
    "gru.weight_ih_l0",
    "gru.weight_hh_l0",
    "query.weight",
    "key.weight",
    "head.weight",
}


def inputs_of(model, layer, batches):
    """Everything a layer was given."""
    seen = []
    handle = layer.register_forward_pre_hook(lambda _, x: seen.append(x[0].detach()))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    return seen


def test_every_weight_is_listed_and_met(zoo, batches):
    assert set(weights(zoo)) == NAMES
    found = moments.collect(zoo, batches)
    assert set(found) == NAMES
    for name, view in weights(zoo).items():
        columns = view.shape[1]
        if view.kind == "embedding":
            assert found[name].moment is None
        else:
            assert found[name].moment.shape == (
                (4, columns, columns) if name == "grouped.weight" else (columns, columns)
            )
            assert found[name].low <= 0 <= found[name].high
            assert len(found[name].samples) == 3 * moments.DRAWN
    assert zoo.training is False
    assert not zoo.conv._forward_pre_hooks


def test_moments_predict_output_energy(zoo, batches):
    """tr(W H W') is the mean square of the outputs (bias left out), for linear and convolutions, grouped ones group by group."""
    found = moments.collect(zoo, batches, dtype=torch.float64)
    for name in ("conv", "grouped", "steps", "query", "head"):
        layer = copy.deepcopy(zoo.get_submodule(name))
        layer.bias = None
        outputs = [layer(x) for x in inputs_of(zoo, zoo.get_submodule(name), batches)]
        if name in ("conv", "grouped", "steps"):
            outputs = [y.movedim(1, -1) for y in outputs]
        y = torch.cat([part.reshape(-1, part.shape[-1]) for part in outputs]).double().detach()
        H, W = found[f"{name}.weight"].moment, weights(zoo)[f"{name}.weight"].matrix.double()
        blocks = H.reshape(-1, W.shape[1], W.shape[1])
        split = W.reshape(len(blocks), -1, W.shape[1])
        energy = torch.einsum("gri,gij,grj->gr", split, blocks, split).flatten()
        torch.testing.assert_close(energy, y.square().mean(0), rtol=1e-5, atol=1e-9)
        assert found[f"{name}.weight"].tokens == len(y)


def slow_hidden(cell, x, width):
    """Hidden states before each step, by running the cell one step at a time."""
    state, seen = torch.zeros(1, width), []
    memory = torch.zeros(1, width)
    for step in x:
        seen.append(state)
        if isinstance(cell, nn.LSTMCell):
            state, memory = cell(step[None], (state, memory))
        else:
            state = cell(step[None], state)
    return torch.cat(seen), state


def copy_cell(module, kind, layer, side):
    inputs = getattr(module, f"weight_ih_l{layer}{side}").shape[1]
    cell = kind(inputs, module.hidden_size)
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(cell, part).data = getattr(module, f"{part}_l{layer}{side}").data
    return cell


def test_recurrent_moments_are_those_of_the_cells(zoo, batches):
    found = moments.collect(zoo, batches, dtype=torch.float64)
    inputs = torch.cat(inputs_of(zoo, zoo.lstm, batches))
    with torch.no_grad():
        lower = zoo.lstm.__class__(10, 5, bidirectional=True, batch_first=True)
        for name, parameter in lower.named_parameters():
            parameter.copy_(getattr(zoo.lstm, name))
        second = lower(inputs)[0]
        for layer, x in ((0, inputs), (1, second)):
            for side in ("", "_reverse"):
                cell = copy_cell(zoo.lstm, nn.LSTMCell, layer, side)
                hidden = torch.cat([slow_hidden(cell, row.flip(0) if side else row, 5)[0] for row in x]).double()
                rows = x.reshape(-1, x.shape[-1]).double()
                for part, vectors in (("ih", rows), ("hh", hidden)):
                    expected = vectors.T @ vectors / len(vectors)
                    torch.testing.assert_close(
                        found[f"lstm.weight_{part}_l{layer}{side}"].moment, expected, rtol=1e-5, atol=1e-8
                    )
        x = torch.cat(inputs_of(zoo, zoo.gru, batches))
        hidden = torch.cat([slow_hidden(copy_cell(zoo.gru, nn.GRUCell, 0, ""), row, 4)[0] for row in x]).double()
        torch.testing.assert_close(
            found["gru.weight_hh_l0"].moment, hidden.T @ hidden / len(hidden), rtol=1e-5, atol=1e-8
        )


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_time_first_unbatched_and_started_recurrences(kind):
    torch.manual_seed(0)
    module, x = kind(3, 4, bias=False).eval(), torch.randn(6, 3)
    found = moments.collect(module, [(x,), (x[:, None],)])
    half = moments.collect(module, [(x,)])
    torch.testing.assert_close(found["weight_hh_l0"].moment, half["weight_hh_l0"].moment)
    start = torch.randn(1, 1, 4)
    begun = (start, torch.zeros(1, 1, 4)) if kind is nn.LSTM else start
    found = moments.collect(module, [(x[:1, None], begun)])
    torch.testing.assert_close(found["weight_hh_l0"].moment, start.reshape(4, 1) @ start.reshape(1, 4))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, bias=False),
        nn.Conv2d(3, 4, 3, padding=2, padding_mode="reflect", bias=False),
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular", bias=False),
        nn.Conv1d(4, 8, 5, padding=2, groups=4, bias=False),
        nn.Conv1d(4, 8, 4, padding="same", dilation=2, bias=False),
    ],
)
def test_patches_times_rows_are_the_convolution(layer, monkeypatch):
    monkeypatch.setattr(moments, "UNFOLDED", 100)  # one sample at a time
    x = torch.randn(2, layer.in_channels, *([9, 8] if isinstance(layer, nn.Conv2d) else [11]))
    for given in (x, x[0]):
        parts = torch.cat(list(moments.patches(layer, given)), dim=1)
        W = layer.weight.reshape(layer.groups, -1, parts.shape[2])
        y = torch.einsum("gtc,grc->grt", parts, W).reshape(layer.out_channels, -1)
        expected = layer(given)
        expected = expected.movedim(1, 0) if given.dim() == x.dim() else expected
        torch.testing.assert_close(y, expected.reshape(layer.out_channels, -1), rtol=1e-4, atol=1e-5)


def test_fewer_positions_are_evenly_spaced(zoo, batches):
    found = moments.collect(zoo, batches, ["conv.weight"], positions=10)
    assert found["conv.weight"].tokens == 3 * 4 * 10


def test_shared_inputs_are_multiplied_once(zoo, batches, monkeypatch):
    multiplied = []
    original = moments._Collector._sum
    monkeypatch.setattr(moments._Collector, "_sum", lambda self, *given: multiplied.append(1) or original(self, *given))
    found = moments.collect(zoo, batches, ["query.weight", "key.weight"])
    assert len(multiplied) == 3
    assert torch.equal(found["query.weight"].moment, found["key.weight"].moment)


def test_convolutions_that_share_an_input_get_one_range():
    class Fork(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide, self.narrow = nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.wide(x) + self.narrow(x)

    found = moments.collect(Fork(), [(torch.randn(2, 3, 8, 8),)])
    assert torch.equal(found["wide.weight"].samples, found["narrow.weight"].samples)
    assert found["wide.weight"].moment.shape != found["narrow.weight"].moment.shape


@pytest.mark.parametrize("first", [True, False])
def test_shortcuts_of_the_same_tensor_are_noted(first):
    class Shortcut(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.other, self.short = nn.Linear(4, 4), nn.Linear(4, 4), nn.Identity()

        def forward(self, x):
            short = self.short(x) if first else None
            y = self.other(self.inner(x))
            return y + (short if first else self.short(x))

    found = moments.collect(Shortcut(), [(torch.randn(2, 4),), (torch.randn(3, 4),)])
    assert found["inner.weight"].passes == ("short",)
    assert found["other.weight"].passes == ()


def test_a_tensor_changed_in_place_is_not_shared():
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            self.first(x)
            return self.second(x.mul_(2))

    found = moments.collect(Changed(), [(torch.ones(1, 2),)])
    torch.testing.assert_close(found["second.weight"].moment, 4 * found["first.weight"].moment)


def test_tied_weights_have_one_entry():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.words.weight

        def forward(self, ids):
            return self.head(self.words(ids))

    model = Tied()
    view = weights(model)["words.weight"]
    assert view.aliases == ("head.weight",)
    found = moments.collect(model, [(torch.tensor([[1, 1, 3]]),)])["words.weight"]
    assert found.counts.tolist() == [0, 2, 0, 1, 0]
    assert found.moment.shape == (3, 3)


def test_samples_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(moments, "SAMPLES", 3 * moments.DRAWN)
    model = nn.Linear(8, 2)
    found = moments.collect(model, [(torch.full((4, 8), float(k)),) for k in range(20)])
    samples = found["weight"].samples
    assert len(samples) <= 3 * moments.DRAWN
    assert abs(samples.mean().item() - 9.5) < 1.5
    assert (found["weight"].low, found["weight"].high) == (0, 19)


def test_errors_name_the_layer(zoo, batches):
    with pytest.raises(InputError, match=r"no compressible weight 'nose'\. It has: conv\.weight"):
        moments.collect(zoo, batches, ["nose"])
    with pytest.raises(InputError, match=r"conv\.weight met no input in 0 calibration batches"):
        moments.collect(zoo, [], ["conv.weight"])
    spoiled = [batches[0], {**batches[1], "image": torch.full((4, 3, 8, 8), torch.nan)}]
    with pytest.raises(NumericsError, match=r"The input of conv\.weight holds NaN or infinity in calibration batch 1"):
        moments.collect(zoo, spoiled)
    packed = nn.utils.rnn.pack_sequence([torch.randn(3, 10)])
    with pytest.raises(InputError, match="lstm was given a packed sequence"):
        moments.collect(nn.ModuleDict({"lstm": zoo.lstm}), [lambda m: m["lstm"](packed)])

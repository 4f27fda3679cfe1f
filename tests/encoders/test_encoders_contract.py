"""What every encoder promises the model, the exporters and the compressor."""

import pytest
import torch
from torch import nn
from torch.export import Dim, export

import triptych.encoders  # noqa: F401 - files the encoders in the registry
from triptych.compress.prune.width import shrink
from triptych.encoders.masked import any_or_all
from triptych.registry import find, names
from triptych.structure import Features

IMAGE = Features(kind="image", shape=(3, 24, 16))
AUDIO = Features(kind="audio", shape=(1, 12, 17))
VIDEO = Features(kind="video", shape=(5, 3, 24, 16))
TEXT = Features(kind="text", shape=(8,), vocabulary=30)
CATEGORY = Features(kind="category", shape=(1,), vocabulary=7)
NUMBER = Features(kind="number", shape=(1,))

CNN = {"widths": (6, 8), "blocks": (2, 2)}
PLAIN = {"widths": (6, 8), "blocks": (1, 1), "residual": False, "kernel": 5}
LSTM = {"hidden": 6, "width": 8, "embedding": 10}
GRU = {"cell": "gru", "hidden": 6, "width": 8, "embedding": 10, "layers": 3, "pool": "last"}
TRANSFORMER = {"width": 12, "heads": 4, "layers": 2, "feedforward": 10, "patch": 8}
RBF = {"dim": 6, "units": 10, "width": 8, "patch": 4}
MLP = {"hidden": 6, "width": 8}
RECURRENT = {
    "frame": {"name": "cnn", **CNN},
    "time": {"name": "rnn", "hidden": 6, "width": 8},
    "width": 10,
    "together": 2,
}
ATTENTIVE = {"frame": {"name": "rbf", **RBF}, "time": {"name": "transformer", **TRANSFORMER, "patch": 1}, "width": 10}
UNET = {"widths": (6, 8, 10), "blocks": (1, 2, 1), "stem": 4, "up": (8, 6, 5)}
SHORT_UNET = {"widths": (6, 8, 10), "blocks": (2, 1, 1), "stem": 4, "up": (7,)}

CASES = {
    "cnn image": ("cnn", CNN, IMAGE),
    "cnn audio": ("cnn", CNN, AUDIO),
    "cnn text": ("cnn", CNN, TEXT),
    "plain cnn image": ("cnn", PLAIN, IMAGE),
    "plain cnn text": ("cnn", PLAIN, TEXT),
    "lstm image": ("rnn", LSTM, IMAGE),
    "lstm audio": ("rnn", LSTM, AUDIO),
    "lstm text": ("rnn", LSTM, TEXT),
    "gru audio": ("rnn", GRU, AUDIO),
    "gru text": ("rnn", GRU, TEXT),
    "gru text, one direction": ("rnn", GRU | {"bidirectional": False}, TEXT),
    "lstm image, one direction": ("rnn", LSTM | {"bidirectional": False, "pool": "last"}, IMAGE),
    "transformer image": ("transformer", TRANSFORMER, IMAGE),
    "transformer audio": ("transformer", TRANSFORMER, AUDIO),
    "transformer with convolutions, audio": ("transformer", TRANSFORMER | {"strides": (2, 2)}, AUDIO),
    "transformer text": ("transformer", TRANSFORMER, TEXT),
    "rbf image": ("rbf", RBF, IMAGE),
    "rbf audio": ("rbf", RBF, AUDIO),
    "rbf text": ("rbf", RBF, TEXT),
    "rbf number": ("rbf", RBF, NUMBER),
    "recurrent frames": ("frames", RECURRENT, VIDEO),
    "frames with attention": ("frames", ATTENTIVE, VIDEO),
    "unet image": ("unet", UNET, IMAGE),
    "short unet image": ("unet", SHORT_UNET, IMAGE),
    "mlp category": ("mlp", MLP, CATEGORY),
    "mlp number": ("mlp", MLP, NUMBER),
}
every = pytest.mark.parametrize("case", CASES)
every_text = pytest.mark.parametrize("case", [name for name, (_, _, features) in CASES.items() if features is TEXT])
one_of_each = pytest.mark.parametrize(
    "case",
    ["cnn text", "unet image", "lstm text", "transformer image", "rbf audio", "recurrent frames", "mlp number"],
)


def build(case):
    """The encoder of a case in eval mode, its norms with statistics of data and scales of their own."""
    name, settings, features = CASES[case]
    torch.manual_seed(0)
    component = find("encoder", name)
    assert features.kind in component.kinds
    encoder = component(component.Config(**settings), features)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.momentum = None
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    with torch.no_grad():
        encoder.train()(sample(features, 16, seed=9))
    return encoder.eval(), features


def sample(features, batch, seed=1):
    """Random features; texts and clips have different lengths and zeros behind them."""
    generator = torch.Generator().manual_seed(seed)
    if not features.vocabulary:
        x = torch.randn(batch, *features.shape, generator=generator)
        lengths = torch.randint(
            1, features.shape[0] + 1, (batch if features.kind == "video" else 0,), generator=generator
        )
        for row, length in enumerate(lengths):
            x[row, length:] = 0
        return x
    ids = torch.randint(1, features.vocabulary, (batch, *features.shape), generator=generator)
    if features.kind == "text":
        for row, length in enumerate(torch.randint(1, features.shape[0] + 1, (batch,), generator=generator)):
            ids[row, length:] = 0
    return ids


def distance(one, other):
    return max((a.float() - b.float()).abs().max().item() for a, b in zip(one, other, strict=True))


def test_all_are_registered():
    assert set(names("encoder")) >= {"cnn", "rnn", "transformer", "rbf", "mlp", "frames", "pretrained", "unet"}


@every
def test_shapes(case):
    encoder, features = build(case)
    encoded = encoder(sample(features, 3))
    assert encoded.pooled.shape == (3, encoder.width)
    assert encoded.tokens.shape == (3, encoded.mask.shape[1], encoder.width)
    assert encoded.mask.dtype == torch.bool
    assert encoded.mask.any(dim=1).all()
    assert all(torch.isfinite(tensor).all() for tensor in encoded)


@every
def test_gradients_reach_every_parameter(case):
    encoder, features = build(case)
    encoded = encoder.train()(sample(features, 5))
    (encoded.pooled.sin().sum() + encoded.tokens.cos().sum()).backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        # A bias of the keys moves all scores of a query alike, which softmax does not see: its gradient is rounding.
        assert parameter.grad.abs().max() > 0 or name.endswith("k.bias"), name


@every
def test_samples_do_not_see_each_other(case):
    encoder, features = build(case)
    x = sample(features, 4)
    alone = [encoder(x[row : row + 1]).pooled for row in range(4)]
    assert distance([encoder(x).pooled], [torch.cat(alone)]) < 1e-5


@every_text
def test_padding_does_not_change_the_result(case):
    encoder, _ = build(case)
    for length in (1, 4, 7):
        ids = torch.randint(1, 30, (2, length), generator=torch.Generator().manual_seed(length))
        short, padded = encoder(ids), encoder(nn.functional.pad(ids, (0, 8 - length)))
        assert distance([short.pooled], [padded.pooled]) < 1e-5
        if short.tokens.shape != padded.tokens.shape:
            real = padded.mask.sum(dim=1)
            assert (real == short.tokens.shape[1]).all()
            assert distance([short.tokens], [padded.tokens[:, : real[0]]]) < 1e-5


@every_text
def test_an_empty_text_has_a_finite_vector(case):
    encoder, _ = build(case)
    encoded = encoder.train()(torch.zeros(3, 8, dtype=torch.long))
    encoded.pooled.sum().backward()
    assert torch.isfinite(encoded.pooled).all()
    assert all(torch.isfinite(p.grad).all() for p in encoder.parameters() if p.grad is not None)


@every
@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning:(jaxtyping|torch).*")  # shape checks, not our code
def test_a_trace_takes_another_batch_size(case):
    encoder, features = build(case)
    traced = torch.jit.trace(encoder, sample(features, 2), check_trace=False)
    other = sample(features, 5, seed=2)
    assert distance(traced(other), encoder(other)) < 1e-5


@one_of_each
@pytest.mark.filterwarnings("ignore:The tensor attributes .*_flat_weights:UserWarning")  # torch, about its own LSTM
def test_an_export_takes_another_batch_size(case):
    encoder, features = build(case)
    program = export(encoder, (sample(features, 2),), dynamic_shapes=({0: Dim("batch")},))
    other = sample(features, 5, seed=2)
    assert distance(program.module()(other), encoder(other)) < 1e-5


@every
def test_removing_units_equals_not_reading_them(case, prune_both_ways):
    encoder, features = build(case)
    x = sample(features, 3)
    widths = encoder.widths()
    assert len({width.name for width in widths}) == len(widths) > 0
    for width in widths:
        pruned, blind = prune_both_ways(encoder, width)
        assert distance(pruned(x), blind(x)) < 1e-5, width.name
        assert distance(pruned(x), encoder(x)) > 1e-5, f"{width.name}: the units did nothing"
        units = {w.name: w.units for w in pruned.widths()}
        assert units == {w.name: w.units for w in widths} | {width.name: (width.units + 1) // 2}


@every
def test_the_compressor_removes_the_same_units(case, prune_both_ways):
    encoder, features = build(case)
    x = sample(features, 3)
    for width in encoder.widths():
        pruned, _ = prune_both_ways(encoder, width)
        shrink(encoder, width, torch.arange(0, width.units, 2))
        assert distance(encoder(x), pruned(x)) == 0, width.name


@every
def test_all_widths_may_shrink_together(case, prune_both_ways):
    encoder, features = build(case)
    x = sample(features, 3)
    blind = encoder
    for width in encoder.widths():
        encoder, _ = prune_both_ways(encoder, width)
        _, blind = prune_both_ways(blind, width)
    assert distance(encoder(x), blind(x)) < 1e-5


@every
def test_blocks_may_be_dropped(case, prune_both_ways):
    encoder, features = build(case)
    x, before = sample(features, 3), encoder(sample(features, 3))
    for name in encoder.droppable():
        encoder.set_submodule(name, nn.Identity())
        assert not any(width.name.startswith(name) for width in encoder.widths())
        assert encoder(x).tokens.shape == before.tokens.shape
    assert encoder.droppable() == []
    for width in encoder.widths():
        pruned, blind = prune_both_ways(encoder, width)
        assert distance(pruned(x), blind(x)) < 1e-5, width.name


def test_rows_without_anything_count_everything():
    mask = torch.tensor([[True, False], [False, False]])
    assert any_or_all(mask).tolist() == [[True, False], [True, True]]

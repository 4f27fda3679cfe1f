import pytest
import torch
from torch import nn

from triptych.compress.prune.width import by_unit, positions, resize, shapes_of, shrink
from triptych.errors import InputError
from triptych.structure import Member, Width


class Convolutional(nn.Module):
    """conv - batch norm - depthwise conv - batch norm - conv, then flattened into a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.depthnorm = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 5, 3, padding=1)
        self.head = nn.Linear(5 * 16, 3)

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = self.depthnorm(self.depthwise(x)).relu()
        return self.head(self.second(x).relu().flatten(1))

    def widths(self):
        of = [
            *(f"{n}.{p}" for n in ("first", "depthwise") for p in ("weight", "bias")),
            *(f"{n}.{p}" for n in ("norm", "depthnorm") for p in ("weight", "bias", "running_mean", "running_var")),
        ]
        return [
            Width("channels", 6, tuple(Member(p, 0) for p in of), (Member("second.weight", 1),)),
            Width(
                "pixels",
                5,
                (Member("second.weight", 0), Member("second.bias", 0)),
                (Member("head.weight", 1, span=16),),
            ),
        ]

    def sample(self):
        return torch.randn(3, 2, 4, 4)


class Attention(nn.Module):
    """Four heads of three, and an MLP; the number of heads is read from the weights."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.q, self.k, self.v = (nn.Linear(8, 12) for _ in range(3))
        self.out = nn.Linear(12, 8, bias=False)
        self.up, self.down = nn.Linear(8, 10), nn.Linear(10, 8)

    def forward(self, x):
        y = self.norm(x)
        q, k, v = (p(y).unflatten(-1, (-1, 3)).transpose(1, 2) for p in (self.q, self.k, self.v))
        y = torch.softmax(q @ k.transpose(2, 3), -1) @ v
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(self.up(x).relu())

    def widths(self):
        heads = tuple(Member(f"{n}.{p}", 0, span=3) for n in "qkv" for p in ("weight", "bias"))
        return [
            Width("heads", 4, heads, (Member("out.weight", 1, span=3),)),
            Width("hidden", 10, (Member("up.weight", 0), Member("up.bias", 0)), (Member("down.weight", 1),)),
        ]

    def sample(self):
        return torch.randn(2, 5, 8)


class Recurrent(nn.Module):
    """Two layers, both directions, one hidden size: unit u goes from all four at once."""

    def __init__(self, kind="LSTM"):
        super().__init__()
        self.rnn = getattr(nn, kind)(3, 5, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(10, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0])

    def widths(self):
        gates = 4 if self.rnn.mode == "LSTM" else 3
        ends = [f"l{depth}{direction}" for depth in (0, 1) for direction in ("", "_reverse")]
        rows = tuple(
            Member(f"rnn.{p}_{end}", 0, repeat=gates)
            for end in ends
            for p in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state = tuple(Member(f"rnn.weight_hh_{end}", 1) for end in ends)
        above = tuple(Member(f"rnn.weight_ih_l1{direction}", 1, repeat=2) for direction in ("", "_reverse"))
        return [Width("state", 5, rows, (*state, *above, Member("head.weight", 1, repeat=2)))]

    def sample(self):
        return torch.randn(2, 4, 3)


class Gru(Recurrent):
    def __init__(self):
        super().__init__("GRU")


class Centres(nn.Module):
    """Gaussian radial basis functions: bare parameters, and a token that stands in for an absent input."""

    def __init__(self):
        super().__init__()
        self.absent = nn.Parameter(torch.randn(4))
        self.register_buffer("scale", torch.rand(6))
        self.centres = nn.Parameter(torch.randn(6, 4))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        distance = (x[:, None] - self.absent - self.centres).square().sum(2)
        return self.head((-distance * self.scale).exp())

    def widths(self):
        return [Width("centres", 6, (Member("centres", 0), Member("scale", 0)), (Member("head.weight", 1),))]

    def sample(self):
        return torch.randn(3, 4)


class Grouped(nn.Module):
    """A group norm and an embedding of which whole groups go."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(7, 6, padding_idx=0)
        self.norm = nn.GroupNorm(3, 6)
        self.head = nn.Conv1d(6, 2, 1)

    def forward(self, ids):
        return self.head(self.norm(self.tokens(ids).transpose(1, 2)))

    def widths(self):
        made = (Member("tokens.weight", 1, span=2), Member("norm.weight", 0, span=2), Member("norm.bias", 0, span=2))
        return [Width("groups", 3, made, (Member("head.weight", 1, span=2),))]

    def sample(self):
        return torch.randint(0, 7, (2, 5))


MODELS = [Convolutional, Attention, Recurrent, Gru, Centres, Grouped]


def build(kind, seed=0):
    torch.manual_seed(seed)
    model = kind().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def without(width):
    """Every other unit, the last one always."""
    return torch.arange(1 - width.units % 2, width.units, 2)


def silence(model, width, keep):
    """Zero the consumers' columns of all units that are not kept, by the definition of a member."""
    state = dict(model.named_parameters())
    with torch.no_grad():
        for member in width.consumers:
            columns = state[member.parameter].movedim(member.axis, 0)
            for r in range(member.repeat):
                for u in set(range(width.units)) - set(keep.tolist()):
                    for s in range(member.span):
                        columns[r * width.units * member.span + u * member.span + s] = 0


@pytest.mark.parametrize("kind", MODELS)
def test_shrinking_equals_silencing_the_removed_units(kind):
    for width in build(kind).widths():
        slow, fast = build(kind), build(kind)
        keep = without(width)
        silence(slow, width, keep)
        shrink(fast, width, keep)
        x = slow.sample()
        torch.testing.assert_close(fast(x), slow(x))
        assert sum(p.numel() for p in fast.parameters()) < sum(p.numel() for p in slow.parameters())


@pytest.mark.parametrize("kind", MODELS)
def test_a_pruned_model_reloads_from_shapes_and_state(kind):
    pruned, fresh = build(kind), build(kind, seed=1)
    for width in pruned.widths():
        shrink(pruned, width, without(width))
    with torch.device("meta"):
        reference = kind()
    shapes = shapes_of(pruned, reference)
    resize(fresh, {name: list(shape) for name, shape in shapes.items()})
    fresh.load_state_dict(pruned.state_dict(), strict=True)
    x = pruned.sample()
    assert torch.equal(fresh(x), pruned(x))
    assert repr(fresh) == repr(pruned)  # the layers' own records agree


@pytest.mark.parametrize("kind", MODELS)
def test_a_pruned_model_trains(kind):
    model = build(kind)
    for width in model.widths():
        shrink(model, width, without(width))
    model.train()(model.sample()).square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_layers_records_follow():
    model = build(Convolutional)
    shrink(model, model.widths()[0], torch.tensor([0, 3]))
    assert (model.first.out_channels, model.norm.num_features, model.second.in_channels) == (2, 2, 2)
    assert (model.depthwise.groups, model.depthwise.in_channels, model.depthwise.out_channels) == (2, 2, 2)
    recurrent = build(Recurrent)
    shrink(recurrent, recurrent.widths()[0], torch.tensor([1, 2, 4]))
    assert (recurrent.rnn.hidden_size, recurrent.rnn.input_size, recurrent.head.in_features) == (3, 3, 6)
    grouped = build(Grouped)
    shrink(grouped, grouped.widths()[0], torch.tensor([0, 2]))
    assert (grouped.norm.num_groups, grouped.norm.num_channels, grouped.tokens.embedding_dim) == (2, 4, 4)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_a_projected_lstm_is_resized():
    model = nn.LSTM(3, 6, proj_size=2)
    ends = {
        "weight_ih_l0": (16, 3),
        "weight_hh_l0": (16, 1),
        "bias_ih_l0": (16,),
        "bias_hh_l0": (16,),
        "weight_hr_l0": (1, 4),
    }
    resize(model, ends)
    assert (model.hidden_size, model.proj_size) == (4, 1)
    assert model(torch.randn(5, 2, 3))[0].shape == (5, 2, 1)


def test_pruning_twice_equals_pruning_once():
    twice, once = build(Attention), build(Attention)
    first, second = torch.tensor([0, 1, 3]), torch.tensor([1, 2])
    heads = twice.widths()[0]
    shrink(twice, heads, first)
    shrink(twice, heads._replace(units=3), second)
    shrink(once, heads, first[second])
    assert all(torch.equal(a, b) for a, b in zip(twice.parameters(), once.parameters(), strict=True))


def test_tied_parameters_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
            self.head.weight = self.tokens.weight

    model = Tied()
    before = model.tokens.weight.detach().clone()
    shrink(model, Width("w", 6, (Member("tokens.weight", 1),), (Member("head.weight", 1),)), torch.tensor([0, 4]))
    assert model.head.weight is model.tokens.weight
    assert torch.equal(model.head.weight, before[:, [0, 4]])
    assert (model.head.in_features, model.tokens.embedding_dim) == (2, 2)
    resize(model, {"tokens.weight": (9, 1)})
    assert model.head.weight is model.tokens.weight
    with pytest.raises(InputError, match="tied to a tensor of another shape"):
        resize(model, {"tokens.weight": (9, 2), "head.weight": (9, 3)})
    pairs = Width("w", 3, (Member("tokens.weight", 1, span=2),), (Member("head.weight", 1, repeat=2),))
    with pytest.raises(InputError, match=r"cuts axis 1 of 'head\.weight' in two ways"):
        shrink(Tied(), pairs, torch.tensor([1]))


def test_frozen_parameters_stay_frozen():
    model = build(Attention)
    model.q.requires_grad_(False)
    shrink(model, model.widths()[0], torch.tensor([2]))
    assert not model.q.weight.requires_grad
    assert model.k.weight.requires_grad


def test_a_group_norm_with_one_group_is_cut_anywhere():
    norm = nn.GroupNorm(1, 6)
    resize(norm, {"weight": (5,), "bias": (5,)})
    assert (norm.num_groups, norm.num_channels) == (1, 5)


@pytest.mark.parametrize(
    ("layer", "shapes", "message"),
    [
        (nn.Linear(4, 3), {"weight": (2, 4)}, r"bias has shape \(3,\) where \(2,\) is needed"),
        (nn.Linear(4, 3), {"weight": (2, 4, 1)}, r"'weight' of shape \(3, 4\) cannot be resized to \(2, 4, 1\)"),
        (nn.Linear(4, 3), {"weights": (2, 4)}, "The model has no tensor 'weights'"),
        (nn.Linear(4, 3), {"body.weight": (2, 4)}, r"The model has no tensor 'body\.weight'"),
        (
            nn.GroupNorm(2, 8),
            {"weight": (5,), "bias": (5,)},
            r"weight has shape \(5,\) where \(8,\) .* whole groups at a time",
        ),
        (nn.Conv2d(4, 6, 3, groups=2), {"weight": (5, 2, 3, 3), "bias": (5,)}, r"weight has shape \(5, 2, 3, 3\)"),
        (nn.Conv2d(4, 6, 3), {"weight": (6, 4, 1, 1)}, r"weight has shape .* where \(6, 4, 3, 3\) is needed"),
        (nn.BatchNorm1d(4), {"weight": (3,), "bias": (3,)}, r"weight has shape \(3,\) where \(4,\)"),
        (nn.Embedding(4, 2, padding_idx=3), {"weight": (3, 2)}, r"weight has shape \(3, 2\) where \(4, 2\)"),
        (nn.GRU(2, 4), {"weight_ih_l0": (9, 2)}, r"weight_ih_l0 has shape \(9, 2\) where \(12, 2\)"),
        (
            nn.Sequential(nn.ConvTranspose2d(2, 2, 1)),
            {"0.weight": (1, 2, 1, 1)},
            "Layer '0' is a ConvTranspose2d, whose width",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(layer, shapes, message):
    with pytest.raises(InputError, match=message):
        resize(layer, shapes)


@pytest.mark.parametrize("keep", [[], [2, 1], [1, 1], [-1, 2], [0, 10]])
def test_units_to_keep_must_be_ascending_units(keep):
    model = build(Attention)
    with pytest.raises(InputError, match=r"of width 'hidden' are not ascending numbers from 0 to 9\."):
        shrink(model, model.widths()[1], torch.tensor(keep, dtype=torch.int64))


def test_a_width_of_another_model_is_refused():
    width = Width("hidden", 9, (Member("up.weight", 0),), ())
    with pytest.raises(InputError, match=r"Width 'hidden' says 9 for axis 0 of 'up\.weight', whose shape is \(10, 8\)"):
        shrink(build(Attention), width, torch.tensor([0]))


def test_buffers_that_are_not_saved_are_refused():
    model = nn.Module()
    model.register_buffer("positions", torch.arange(4), persistent=False)
    with pytest.raises(InputError, match="Buffer 'positions' is not saved"):
        resize(model, {"positions": (3,)})


def test_models_of_other_blocks_have_no_shapes_to_compare():
    with pytest.raises(InputError, match=r"'1\.bias' stands in only one of the two models"):
        shapes_of(nn.Sequential(nn.Linear(2, 2), nn.Identity()), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


def test_positions_and_rows_by_unit_agree():
    member = Member("w", 1, span=2, repeat=3)
    tensor = torch.arange(4 * 30).view(4, 30)
    rows = by_unit(tensor, member, 5)
    for unit in range(5):
        own = tensor.index_select(1, positions(member, 5, torch.tensor([unit])))
        assert set(rows[unit].tolist()) == set(own.flatten().tolist())
    assert positions(member, 5, torch.tensor([1, 4])).tolist() == [2, 3, 8, 9, 12, 13, 18, 19, 22, 23, 28, 29]

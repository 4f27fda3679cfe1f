"""OpenVINO runs our codes: outputs against PyTorch, and what the plugin really executes."""

import numpy as np
import openvino as ov
import pytest
import torch
from torch import nn

from triptych.compress.passes import fold_norms
from triptych.compress.quantize import layers, moments
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme
from triptych.compress.quantize.rounding import quantize_weight
from triptych.data.batch import Batch
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import ArtifactError, InputError
from triptych.models.fusion_model import FusionConfig, FusionModel
from triptych.registry import find
from triptych.structure import Features

W8A8 = LayerScheme(weight=Grid(bits=8), activation=8)
W4A8 = LayerScheme(weight=Grid(bits=4), activation=8)
GROUPS = LayerScheme(weight=Grid(bits=4, group=16))
PLANS = {
    "dense": (None, None),
    "eight bits, integer products": (W8A8, LayerScheme(weight=Grid(bits=8))),
    "four bits, integer products": (W4A8, LayerScheme(weight=Grid(bits=4))),
    "four bits in groups": (GROUPS, GROUPS),
    "groups that divide nothing, with zeros": (
        LayerScheme(weight=Grid(bits=4, group=7, symmetric=False)),
        LayerScheme(weight=Grid(bits=3, group=5, symmetric=False)),
    ),
    "six bits with zeros": (
        LayerScheme(weight=Grid(bits=6, symmetric=False)),
        LayerScheme(weight=Grid(bits=5, group=8)),
    ),
}


@pytest.mark.parametrize("plan", PLANS)
def test_outputs_are_those_of_pytorch(small, choose, make_batch, plan):
    chosen = choose(*PLANS[plan])
    ours, reference = OpenVINOEngine(small, make_batch(2), chosen, threads=1), TorchEngine(small, quantized=chosen)
    spread = reference(*make_batch(16, seed=7)).std()
    for size in (1, 16):
        inputs, presence = make_batch(size, seed=7)
        got, expected = ours(inputs, presence), reference(inputs, presence)
        assert got.shape == (size, 5)
        assert np.abs(got - expected).max() < 0.01 * spread
        assert (got.argmax(1) == expected.argmax(1)).mean() > 0.98


@pytest.mark.parametrize("scheme", [W8A8, W4A8])
def test_integer_products_are_executed(small, choose, make_batch, scheme):
    engine = OpenVINOEngine(small, make_batch(2), choose(scheme), threads=1)
    products = [o for o in engine.executed() if o.type in ("Convolution", "FullyConnected")]
    assert sum(o.type == "Convolution" for o in products) == 9
    assert {o.precision for o in products} <= {"u8", "i8"}, products


def test_float_products_stay_float(small, make_batch):
    engine = OpenVINOEngine(small, make_batch(2), threads=1)
    assert {o.precision for o in engine.executed() if o.type == "Convolution"} == {"f32"}


def test_grouped_codes_stay_low_bit_in_linear_and_embedding(small, choose, make_batch):
    engine = OpenVINOEngine(small, make_batch(2), choose(GROUPS, GROUPS), threads=1)
    executed = engine.executed()
    assert [o.precision for o in executed if o.type == "Gather" and "words" in o.name] == ["i4"]
    # 72 columns are not a multiple of 16, so that layer's weight is restored when the model is compiled; the head's is not.
    assert sorted(o.precision for o in executed if o.type == "FullyConnected") == ["f32", "i4"]


def test_a_rounded_input_is_rounded_once(small, choose, make_batch):
    """The first convolution of a block and its shortcut read one tensor with one range, be the shortcut an Identity."""
    chosen = choose(W8A8)
    assert {name: item.passes for name, item in chosen.items() if item.passes} == {
        "same.first.weight": ("same.shortcut",)
    }
    engine = OpenVINOEngine(small, make_batch(2), chosen, threads=1)
    rounding = [node for node in engine.graph.get_ops() if node.get_type_name() == "FakeQuantize"]
    assert len(rounding) == 10
    assert sorted(len(node.output(0).get_target_inputs()) for node in rounding) == [1] * 8 + [2] * 2


def test_unrounded_parts_ignore_hooks_on_the_model(small, choose, make_batch):
    import copy

    applied = copy.deepcopy(small)
    chosen = choose(W8A8)
    layers.apply(applied, chosen)
    inputs, presence = make_batch(8)
    from_applied = OpenVINOEngine(applied, make_batch(2), chosen, threads=1)(inputs, presence)
    np.testing.assert_array_equal(
        from_applied, OpenVINOEngine(small, make_batch(2), chosen, threads=1)(inputs, presence)
    )
    assert any(module._forward_pre_hooks for module in applied.modules())


def test_tied_weights_and_plain_tensor_outputs():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.head.weight = self.words.weight

        def forward(self, inputs, presence):
            return self.head(self.words(inputs["text"]).mean(1)) * presence

    from triptych.compress.quantize.rounding import quantize_weight

    torch.manual_seed(0)
    model = Tied()
    scheme = LayerScheme(weight=Grid(bits=4), method="rtn")
    chosen = {name: quantize_weight(view, scheme) for name, view in layers.weights(model).items()}
    example = ({"text": torch.randint(0, 7, (3, 5))}, torch.ones(3, 1, dtype=torch.bool))
    ours, reference = OpenVINOEngine(model, example, chosen, threads=1), TorchEngine(model, quantized=chosen)
    np.testing.assert_allclose(ours(*example), reference(*example), atol=1e-6)


def test_an_odd_number_of_four_bit_codes():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 3)

        def forward(self, inputs, presence):
            return self.head(inputs["number"]) * presence

    from triptych.compress.quantize.rounding import quantize_weight

    torch.manual_seed(0)
    model = One()
    scheme = LayerScheme(weight=Grid(bits=4, symmetric=False), method="rtn")
    chosen = {name: quantize_weight(view, scheme) for name, view in layers.weights(model).items()}
    example = ({"number": torch.randn(2, 3)}, torch.ones(2, 1, dtype=torch.bool))
    ours = OpenVINOEngine(model, example, chosen, threads=1)(*example)
    np.testing.assert_allclose(ours, TorchEngine(model, quantized=chosen)(*example), atol=1e-6)


def test_batches_are_filled_up_to_powers_of_two(small, make_batch):
    engine = OpenVINOEngine(small, make_batch(2), threads=1)
    for size, compiled in ((1, {1}), (5, {1, 8}), (7, {1, 8}), (8, {1, 8}), (0, {1, 8})):
        assert engine(*make_batch(size)).shape == (size, 5)
        assert set(engine.program._made) == compiled


def test_engines_are_registered():
    assert find("engine", "openvino") is OpenVINOEngine
    assert find("engine", "torch") is TorchEngine


def test_errors_say_what_is_wrong(small, choose, make_batch, tmp_path):
    chosen = choose(W8A8)
    with pytest.raises(InputError, match=r"The model has no compressible weight 'nose\.weight'"):
        OpenVINOEngine(small, make_batch(2), {"nose.weight": chosen["mix.weight"]})
    with pytest.raises(InputError, match=r"codes of mix\.weight are for the shape \(5, 64\)"):
        OpenVINOEngine(small, make_batch(2), {"mix.weight": chosen["head.weight"]})
    engine = OpenVINOEngine(small, make_batch(2), threads=1)
    inputs, presence = make_batch(2)
    del inputs["text"]
    with pytest.raises(InputError, match="made for the inputs image, text, sound, not image, sound"):
        engine(inputs, presence)
    (tmp_path / "openvino_model.xml").write_text("<nothing/>")
    with pytest.raises(ArtifactError, match="OpenVINO cannot read"):
        OpenVINOEngine.read(tmp_path / "openvino_model.xml")


@pytest.mark.parametrize("time", [{"cell": "gru", "hidden": 8}, {"name": "transformer", "width": 12, "heads": 2}])
def test_frames_that_share_the_batch_axis_take_any_batch_size(time, tmp_path):
    features = Features(kind="video", shape=(4, 1, 16, 16))
    frame = {"name": "cnn", "widths": [8, 8], "blocks": [1, 1]}
    encoder = {"name": "frames", "frame": frame, "time": time, "width": 8}
    inputs = {"film": {"features": features.model_dump(), "encoder": encoder}}
    torch.manual_seed(0)
    model = FusionModel(FusionConfig(inputs=inputs, fusion={"name": "concat", "width": 8}, task={"name": "regress"}))
    film = torch.randn(16, *features.shape)
    film[3, 2:] = 0
    presence = (torch.arange(16) != 5)[:, None]
    model.train()({"film": film}, presence)  # statistics for its norms
    fold_norms(model.eval(), Batch({"film": film}, presence, None, torch.arange(16)))
    found = moments.collect(model, [({"film": film}, presence)])
    products = {name: view for name, view in layers.weights(model).items() if view.kind in ("linear", "convolution")}
    chosen = {name: quantize_weight(view, W8A8, found[name]) for name, view in products.items()}
    reference, example = TorchEngine(model, quantized=chosen), ({"film": film[:2]}, presence[:2])
    ov.save_model(OpenVINOEngine(model, example, chosen, threads=1).graph, tmp_path / "model.xml")
    read = OpenVINOEngine.read(tmp_path / "model.xml", threads=1)
    spread = reference({"film": film}, presence).std()
    for engine in (OpenVINOEngine(model, example, chosen, threads=1), read):
        for size in (1, 3, 16):
            expected = reference({"film": film[:size]}, presence[:size])
            assert np.abs(engine({"film": film[:size]}, presence[:size]) - expected).max() < 0.02 * spread
    assert {o.precision for o in read.executed() if o.type == "Convolution"} <= {"u8", "i8"}

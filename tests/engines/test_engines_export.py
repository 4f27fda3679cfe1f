"""Exported files: sizes and outputs."""

import numpy as np
import pytest

from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError
from triptych.export.openvino import export

FOUR = LayerScheme(weight=Grid(bits=4, group=8))
PLANS = {
    "four bits": (FOUR, FOUR, 0.5),
    "four bits, integer products": (
        LayerScheme(weight=Grid(bits=4), activation=8),
        LayerScheme(weight=Grid(bits=4)),
        0.5,
    ),
}


@pytest.mark.parametrize("plan", PLANS)
def test_codes_stay_narrow_on_disk_and_run_from_there(small, choose, make_batch, tmp_path, plan):
    *schemes, bytes_a_code = PLANS[plan]
    chosen = choose(*schemes)
    path = export(small, make_batch(2), chosen, tmp_path / "out")
    assert sorted(file.name for file in path.parent.iterdir()) == ["openvino_model.bin", "openvino_model.xml"]
    codes = sum(item.codes.values.numel() for item in chosen.values())
    scales = sum(item.codes.scale.numel() for item in chosen.values())
    dense = sum(p.numel() for name, p in small.named_parameters() if name not in chosen)
    size = path.with_suffix(".bin").stat().st_size
    assert size <= codes * bytes_a_code + 2 * scales + 4 * dense + 4096  # shapes and other small constants
    engine = OpenVINOEngine.read(path, threads=1)
    inputs, presence = make_batch(32, seed=3)
    expected = TorchEngine(small, quantized=chosen)(inputs, presence)
    assert np.abs(engine(inputs, presence) - expected).max() < 0.01 * expected.std()


def test_an_export_is_not_overwritten(small, make_batch, tmp_path):
    export(small, make_batch(2), None, tmp_path)
    with pytest.raises(InputError, match=r"openvino_model\.xml exists already\. Name another folder"):
        export(small, make_batch(2), None, tmp_path)

"""The journal gives back what was put in, refuses what was changed, and belongs to one run."""

from pathlib import Path

import pytest
import torch

from triptych.compress.journal import Finished, Journal
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.compress.quantize.rtn import quantize
from triptych.errors import ArtifactError


def finished(block: str, seed: int = 0) -> Finished:
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(seed))
    scheme = LayerScheme(weight=Grid(bits=3, group=8, symmetric=False), method="rtn")
    assert scheme.weight is not None
    item = QuantizedWeight(quantize(weight, None, scheme.weight), (6, 20), scheme)
    name = f"{block}.linear.weight"
    return Finished(block, {name: item}, {f"{block}.norm.weight": torch.arange(4.0)}, {name: {"sqnr_db": 12.5}})


def test_reads_back_what_was_saved(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work", {"run": 1})
    for number in range(3):
        journal.save(finished(f"block{number}", number))
    again = Journal(tmp_path / "work", {"run": 1})
    assert [found.block for found in again.blocks()] == ["block0", "block1", "block2"]
    for number in range(3):
        wanted = finished(f"block{number}", number)
        assert f"block{number}" in again
        found = again.read(f"block{number}")
        name = f"block{number}.linear.weight"
        assert torch.equal(found.quantized[name].restored(), wanted.quantized[name].restored())
        assert torch.equal(again.weight(name).codes.values, wanted.quantized[name].codes.values)
        assert torch.equal(found.dense[f"block{number}.norm.weight"], torch.arange(4.0))
        assert found.notes == wanted.notes


def test_one_changed_bit_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "work", {"run": 1})
    journal.save(finished("block"))
    (part,) = (tmp_path / "work").glob("*.safetensors")
    content = bytearray(part.read_bytes())
    content[-3] ^= 1
    part.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"not what was written"):
        Journal(tmp_path / "work", {"run": 1})


def test_another_run_is_told_which_field_differs(tmp_path: Path) -> None:
    Journal(tmp_path / "work", {"run": 1, "seed": 0}).save(finished("block"))
    with pytest.raises(ArtifactError, match="seed"):
        Journal(tmp_path / "work", {"run": 1, "seed": 1})

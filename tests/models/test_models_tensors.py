"""Safetensors read tensor by tensor: equal to the reference reader, and no damage passes."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from triptych.errors import ArtifactError
from triptych.models.tensors import INDEX, SINGLE, read_header, read_index

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.arange(6, dtype=torch.bfloat16),
    "c": torch.tensor(3, dtype=torch.int64),
    "d": torch.zeros(0, 5),
}


@pytest.fixture
def single(tmp_path: Path) -> Path:
    safetensors.torch.save_file(TENSORS, tmp_path / SINGLE)
    return tmp_path / SINGLE


def shards(folder: Path) -> None:
    names = list(TENSORS)
    where = {}
    for number, part in enumerate((names[:2], names[2:]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        safetensors.torch.save_file({name: TENSORS[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def test_reads_what_was_written(single: Path) -> None:
    found = read_index(single.parent)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name].read(), tensor)
        assert found[name].bytes == tensor.nbytes


def test_reads_rows(single: Path) -> None:
    entry = read_header(single)["a.weight"]
    assert torch.equal(entry.read(1, 2), TENSORS["a.weight"][1:])
    assert torch.equal(entry.rows(torch.tensor([2, 0, 2])), TENSORS["a.weight"][[2, 0, 2]])


def test_shards_are_one_model(tmp_path: Path) -> None:
    shards(tmp_path)
    found = read_index(tmp_path)
    assert all(torch.equal(found[name].read(), tensor) for name, tensor in TENSORS.items())


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ArtifactError, match="model-00002-of-00002"):
        read_index(tmp_path)


def test_swapped_shards_are_refused(tmp_path: Path) -> None:
    shards(tmp_path)
    one, two = tmp_path / "model-00001-of-00002.safetensors", tmp_path / "model-00002-of-00002.safetensors"
    one.rename(tmp_path / "aside")
    two.rename(one)
    (tmp_path / "aside").rename(two)
    with pytest.raises(ArtifactError, match="elsewhere"):
        read_index(tmp_path)


def test_an_index_cannot_point_outside(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))
    with pytest.raises(ArtifactError, match="not a file of the folder"):
        read_index(tmp_path)


def test_a_pickle_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin is a pickle.*save_pretrained"):
        read_index(tmp_path)


@pytest.mark.parametrize("cut", [0, 4, 8, 40, 1])
def test_a_cut_file_is_refused(single: Path, cut: int) -> None:
    content = single.read_bytes()
    single.write_bytes(content[: cut if cut != 1 else len(content) - 1])
    with pytest.raises(ArtifactError, match=SINGLE):
        read_header(single)


def test_appended_bytes_are_refused(single: Path) -> None:
    single.write_bytes(single.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="describes"):
        read_header(single)


def test_a_damaged_header_never_reads_beyond_the_file(single: Path) -> None:
    """Any one changed byte of the header is refused, or leaves tensors that lie within the file."""
    content = bytearray(single.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    generator = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        damaged[generator.integers(length)] ^= 1 << generator.integers(8)
        single.write_bytes(damaged)
        try:
            for entry in read_header(single).values():
                entry.read()
        except ArtifactError:
            refused += 1
    assert refused > 200


def test_a_file_of_another_framework_is_refused(single: Path) -> None:
    safetensors.torch.save_file(TENSORS, single, metadata={"format": "mlx"})
    with pytest.raises(
        ArtifactError, match=r"does not say that it was saved from PyTorch; it says \{'format': 'mlx'\}"
    ):
        read_header(single)

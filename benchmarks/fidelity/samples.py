"""Lists of forward inputs on disk. Needs torch and safetensors alone, so that every environment reads the same tensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Sample = dict[str, Tensor]  # forward arguments, the rows of a batch first


def write_samples(path: Path, samples: list[Sample]) -> None:
    """Write samples as `<place>.<argument>`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flat = {f"{place:04d}.{name}": t.contiguous() for place, one in enumerate(samples) for name, t in one.items()}
    stage = path.with_name(f".{path.name}")
    save_file(flat, stage)
    stage.rename(path)


def read_samples(path: Path) -> list[Sample]:
    """What `write_samples` wrote, in order."""
    samples: dict[str, Sample] = {}
    for key, tensor in sorted(load_file(path).items()):
        place, name = key.split(".", 1)
        samples.setdefault(place, {})[name] = tensor
    return list(samples.values())


def batches(samples: list[Sample], size: int) -> list[Sample]:
    """Samples of equal shapes joined, at most `size` rows together: nothing is padded, so nothing is counted twice."""
    alike: dict[tuple[tuple[str, torch.Size], ...], list[Sample]] = {}
    for sample in samples:
        alike.setdefault(tuple((name, t.shape[1:]) for name, t in sample.items()), []).append(sample)
    return [
        {name: torch.cat([one[name] for one in group[begin : begin + size]]) for name in group[0]}
        for group in alike.values()
        for begin in range(0, len(group), size)
    ]

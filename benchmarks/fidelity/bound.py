"""How far rounded layers are from what any code of the same rate could reach.

The error of a layer is E|(W - Q) x|^2 over the inputs x that the original model meets in calibration. Weights that are drawn
independently from a normal distribution cannot be described with R bits each at less than the reverse water-filling
bound (Cover, Thomas, Elements of Information Theory, 10.3.3): in the eigenbasis of E[x x'], row r's component j has the variance
v_rj = |w_r|^2 / n lambda_j, and

    D = sum min(theta, v_rj)   where theta is such that   sum max(0, log2(v_rj / theta) / 2) = R rows n

Trained weights are not normal, so some may fall below it; it is a yardstick, the same for every contender.
"""

import json
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.fidelity import cases
from benchmarks.fidelity.samples import batches


@cache
def moments(name: str, folder: Path, seed: int) -> dict[str, Tensor]:
    """E[x x'] of every linear layer's inputs, over the calibration samples."""
    model = type(cases.load(name)).from_pretrained(folder).eval()
    found: dict[str, list[Any]] = {}

    def note(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:  # noqa: ARG001
            x = inputs[0].flatten(0, -2).double()
            total, count = found.get(path, (0.0, 0))
            found[path] = [total + x.T @ x, count + len(x)]

        return hook

    for path, module in model.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(note(path))
    with torch.no_grad():
        for batch in batches(cases.calibration(name, seed), 32):
            model(**batch)
    return {path: total / count for path, (total, count) in found.items()}


def least_error(weight: Tensor, moment: Tensor, bits: float) -> float:
    """The bound on tr((W - Q) H (W - Q)') at so many bits a weight."""
    energy = weight.double().square().mean(1)
    spread = torch.linalg.eigvalsh(moment).clamp(min=1e-12)
    v = np.sort((energy[:, None] * spread).flatten().numpy())[::-1]
    v = v[v > 0]
    logs = np.cumsum(np.log2(v))
    count = np.arange(1, len(v) + 1)
    level = (logs - 2 * bits * weight.numel()) / count  # log2 theta if the first `count` components are described
    used = int(np.flatnonzero(level <= np.log2(v)).max()) + 1
    theta = 2.0 ** level[used - 1]
    return float(used * theta + v[used:].sum())


@cache
def bounds(name: str, folder: Path, seed: int, bits: float, layers: str) -> dict[str, float]:
    """The bound of each layer."""
    model = type(cases.load(name)).from_pretrained(folder)
    H = moments(name, folder, seed)
    return {n: least_error(model.get_parameter(f"{n}.weight").detach(), H[n], bits) for n in json.loads(layers)}


def gap_db(case: Any, before: dict[str, Tensor], after: dict[str, Tensor], bits: float) -> float:
    """The mean over layers of the ratio of error to bound, in dB."""
    H = moments(case.model, case.folder, case.seed)
    least = bounds(case.model, case.folder, case.seed, round(bits, 4), json.dumps(list(before)))
    found = []
    for name, weight in before.items():
        change = (after[name] - weight).double()
        error = float(((change @ H[name]) * change).sum())
        found.append(10 * np.log10(max(error, 1e-30) / least[name]))
    return float(mean(found))

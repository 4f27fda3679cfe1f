"""HQQ: half-quadratic fit of scales and zeros, without data; asymmetric, groups along the input."""

import torch
from hqq.core.quantize import BaseQuantizeConfig, HQQLinear
from torch import nn

from benchmarks.peers.harness import SCALE_BITS, Batch, Compressed, Job, Reader, price, run


def compress(job: Job, model: nn.Module, names: list[str], batches: list[Batch]) -> Reader:  # noqa: ARG001 it needs none
    made = {}
    for name in names:
        layer = model.get_submodule(name)
        config = BaseQuantizeConfig(nbits=job.bits, group_size=job.group or layer.in_features, axis=1)
        made[name] = HQQLinear(layer, config, compute_dtype=layer.weight.dtype, device="cpu")
        model.set_submodule(name, made[name])
    return lambda: read(job, made)


@torch.no_grad()
def read(job: Job, made: dict[str, HQQLinear]) -> Compressed:
    weights = {f"{name}.weight": layer.dequantize().detach() for name, layer in made.items()}
    return Compressed(weights, price(weights.values(), job.bits, job.group, SCALE_BITS))  # zeros are real numbers


if __name__ == "__main__":
    run("hqq", ("hqq",), ("hqq",), compress)

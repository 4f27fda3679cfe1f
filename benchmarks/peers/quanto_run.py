"""optimum-quanto: round-to-nearest; 8 bits symmetric over rows, 4 and 2 bits asymmetric in groups."""

import torch
from optimum.quanto import freeze, qint2, qint4, qint8, quantize
from optimum.quanto.library.extensions import cpp
from torch import Tensor, nn

from benchmarks.peers.harness import SCALE_BITS, Batch, Compressed, Job, Reader, price, run


class Unpacker:
    """Stands where quanto looks for C++ that it would compile for minutes at the first use."""

    @staticmethod
    def unpack(packed: Tensor, bits: int) -> Tensor:
        """Codes of a byte, lowest bits first, one after the other along the first dimension."""
        return torch.cat([(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)])


KINDS = {2: qint2, 4: qint4, 8: qint8}


def compress(job: Job, model: nn.Module, names: list[str], batches: list[Batch]) -> Reader:  # noqa: ARG001 it needs none
    if job.bits not in KINDS:
        raise ValueError(f"quanto has no weights of {job.bits} bits")
    quantize(model, weights=KINDS[job.bits], include=names)
    if job.bits < 8:
        for name in names:  # its own choice is 128, and no argument says another
            layer = model.get_submodule(name)
            layer.weight_group_size = job.group or layer.in_features
    freeze(model)
    return lambda: read(job, model, names)


@torch.no_grad()
def read(job: Job, model: nn.Module, names: list[str]) -> Compressed:
    cpp.ext._lib = Unpacker
    weights = {f"{name}.weight": model.get_submodule(name).weight.dequantize().detach() for name in names}
    if job.bits == 8:
        return Compressed(weights, price(weights.values(), 8, 0))
    return Compressed(weights, price(weights.values(), job.bits, job.group, SCALE_BITS))


if __name__ == "__main__":
    run("quanto", ("optimum-quanto",), ("quanto",), compress)

"""NNCF's weight compression on its home backend, OpenVINO: symmetric, in groups; a whole row at 8 bits.

Methods: rtn, awq, scale (scale estimation), gptq, best (AWQ, scale estimation and GPTQ together).
"""

from collections.abc import Iterator
from typing import Any

import nncf
import numpy as np
import openvino as ov
import torch
from torch import Tensor, nn

from benchmarks.peers.harness import Batch, Compressed, Job, Reader, price, run

MODES = {
    2: nncf.CompressWeightsMode.INT2_SYM,
    3: nncf.CompressWeightsMode.INT3_SYM,
    4: nncf.CompressWeightsMode.INT4_SYM,
    8: nncf.CompressWeightsMode.INT8_SYM,
}
METHODS = {
    "rtn": {},
    "awq": {"awq": True},
    "scale": {"scale_estimation": True},
    "gptq": {"gptq": True},
    "best": {"awq": True, "scale_estimation": True, "gptq": True},
}


class First(nn.Module):
    """A model that answers with its first output alone and keeps no cache, which is what tracing understands."""

    def __init__(self, model: Any, inputs: list[str]) -> None:
        super().__init__()
        self.model, self.inputs = model, inputs
        for config in (model.config, *(getattr(model.config, name) for name in model.config.sub_configs)):
            if config is not None:
                config.use_cache = False

    def forward(self, *values: Tensor) -> Tensor:
        given = dict(zip(self.inputs, values, strict=True))
        for ids in self.inputs:  # without a mask, packed sequences are looked for by an operation OpenVINO lacks
            if ids.endswith("input_ids"):
                given.setdefault(ids.replace("input_ids", "attention_mask"), torch.ones_like(given[ids]))
        return self.model(**given)[0]


def compress(job: Job, model: nn.Module, names: list[str], batches: list[Batch]) -> Reader:
    graph = ov.convert_model(First(model, list(batches[0])), example_input=tuple(batches[0].values()))
    uses = dict(products(graph, names))
    if missing := set(names) - set(uses):
        raise ValueError(f"the graph has no {', '.join(sorted(missing)[:5])}, {len(missing)} of {len(names)}")
    named = {op.get_friendly_name(): name for name, op in uses.items()}
    others = [op.get_friendly_name() for op in graph.get_ops() if weighted(op) and op.get_friendly_name() not in named]
    options: dict[str, Any] = {} if job.bits == 8 else {"group_size": job.group or -1, "all_layers": True, "ratio": 1.0}
    if job.bits < 8:
        options |= {"backup_mode": nncf.BackupMode.NONE, **METHODS[job.method]}
        options |= {"dataset": nncf.Dataset(batches, lambda batch: [t.numpy() for t in batch.values()])}
    made = nncf.compress_weights(
        graph,
        mode=MODES[job.bits],
        ignored_scope=nncf.IgnoredScope(names=others),
        subset_size=len(batches),
        **options,
    )
    return lambda: read(job, made, named)


def weighted(op: ov.Node) -> bool:
    return op.get_type_name() in {"MatMul", "Gather", "Convolution"}


def source(op: ov.Node, place: int) -> ov.Node:
    return op.input_value(place).get_node()


def products(graph: ov.Model, names: list[str]) -> Iterator[tuple[str, ov.Node]]:
    """Each layer's matrix product, found by the weight's name in the graph."""
    known = {f"{name}.weight": name for name in names}
    for op in graph.get_ordered_ops():
        if op.get_type_name() != "MatMul":
            continue
        node = source(op, 1)
        while node.get_type_name() in {"Convert", "Transpose"}:
            node = source(node, 0)
        name = known.get(node.get_friendly_name().removeprefix("self.model."))
        if name is not None:
            yield name, op


def read(job: Job, made: ov.Model, named: dict[str, str]) -> Compressed:
    """Weights as the graph decompresses them; AWQ's factors on a layer's input are folded into them."""
    weights = {}
    for op in made.get_ordered_ops():
        name = named.get(op.get_friendly_name())
        if name is None:
            continue
        weight = values(op.input_value(1))
        if not op.get_transpose_b():
            weight = weight.T
        entering = source(op, 0)
        if "awq" in entering.get_friendly_name():
            weight = weight * values(entering.input_value(1)).reshape(1, -1)
        weights[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(weight))
    group = 0 if job.bits == 8 else job.group
    return Compressed(weights, price(weights.values(), job.bits, group))


def values(output: ov.Output) -> np.ndarray:
    """A constant expression's value."""
    model = ov.Model([ov.opset13.result(ov.opset13.convert(output, "f32"))], [])
    found: np.ndarray = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([])[0]
    return found.copy()


if __name__ == "__main__":
    run("nncf", ("nncf", "openvino"), METHODS, compress)

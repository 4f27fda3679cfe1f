"""Rewriting a traced decoder into the operators that ONNX Runtime runs fastest. Every rewrite computes what it replaces.

A step of a small decoder is hundreds of short operations, and what each costs to start counts as much as what it computes: so
norms are fused with the sums before them, products of one input are packed into one, and nothing is reshaped in between.
"""

from collections import defaultdict

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter.ort_fusions.rms_normalization import fuse_rms_normalization
from onnxscript.rewriter.ort_fusions.skip_normalization import fuse_skip_rms_normalization

PRODUCT, ATTENTION = "MatMulNBits", "GroupQueryAttention"


def fuse(model: ir.Model) -> None:
    """All rewrites, in place."""
    fuse_rms_normalization(model)
    fuse_skip_rms_normalization(model)
    _drop_reshapes(model.graph)
    common.DeduplicateInitializersPass(size_limit=1 << 40)(
        model
    )  # one copy of each weight, however many layers read it
    _pack_products(model.graph)
    _pack_attention_inputs(model.graph)
    common.RemoveUnusedNodesPass()(model)
    _halve_scales(model.graph)


def set_accuracy(model: ir.Model, level: int) -> None:
    """How exactly MatMulNBits computes: 0 in float32; 4 rounds its input to eight bits, block by block."""
    for node in model.graph:
        if node.op_type == PRODUCT:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", level)


def _drop_reshapes(graph: ir.Graph) -> None:
    """Reads a reshape of a reshape from the first's input, and one that changes nothing not at all."""
    for node in graph:
        if node.op_type != "Reshape":
            continue
        before = node.inputs[0]
        while before is not None and (maker := before.producer()) is not None and maker.op_type == "Reshape":
            before = maker.inputs[0]
        assert before is not None
        if before.shape is not None and before.shape == node.outputs[0].shape:
            node.outputs[0].replace_all_uses_with(before, replace_graph_outputs=True)
        elif node.inputs[0] is not before and not _copies_sizes(node):
            node.replace_input_with(0, before)


def _copies_sizes(reshape: ir.Node) -> bool:
    """Whether a reshape's target names sizes of its input by 0, so that it means another thing on another input."""
    target = reshape.inputs[1].const_value if reshape.inputs[1] is not None else None
    return not reshape.attributes.get_int("allowzero", 0) and (target is None or 0 in target.numpy())


def _pack_products(graph: ir.Graph) -> None:
    """Makes the products of one input (query, key and value; gate and up) one product, split afterwards."""
    readers: defaultdict[tuple[object, ...], list[ir.Node]] = defaultdict(list)
    for node in graph:
        if node.op_type == PRODUCT:
            layout = [node.attributes.get_int(key) for key in ("K", "bits", "block_size")]
            readers[node.inputs[0], *layout, *(_given(node, place) for place in range(3, 6))].append(node)
    for (x, *_), nodes in readers.items():
        if len(nodes) > 1:
            _pack(graph, x, nodes)  # type: ignore[arg-type] # the first of the key is the value they read


def _given(node: ir.Node, place: int) -> bool:
    return len(node.inputs) > place and node.inputs[place] is not None


def _pack(graph: ir.Graph, x: ir.Value, nodes: list[ir.Node]) -> None:
    first, sizes = nodes[0], [node.attributes.get_int("N", 0) for node in nodes]
    operands: list[ir.Value | None] = [x]
    for place in range(1, len(first.inputs)):
        parts = [node.inputs[place] for node in nodes]
        if parts[0] is None:
            operands.append(None)
            continue
        joined = np.concatenate([part.const_value.numpy() for part in parts])  # type: ignore[union-attr]
        operands.append(_constant(graph, f"{parts[0].name}_packed", joined))
    attributes = {**first.attributes, "N": ir.AttrInt64("N", sum(sizes))}
    product = ir.node(PRODUCT, operands, attributes=attributes, domain=first.domain)
    product.outputs[0].type = x.type
    product.outputs[0].shape = ir.Shape([*(first.outputs[0].shape or ())[:-1], sum(sizes)])
    lengths = _constant(graph, f"{product.inputs[1].name}_rows", np.array(sizes, np.int64))  # type: ignore[union-attr]
    split = ir.node("Split", [product.outputs[0], lengths], {"axis": -1}, num_outputs=len(nodes))
    graph.insert_before(first, [product, split])
    for node, output in zip(nodes, split.outputs, strict=True):
        output.type, output.shape = node.outputs[0].type, node.outputs[0].shape
        node.outputs[0].replace_all_uses_with(output, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _pack_attention_inputs(graph: ir.Graph) -> None:
    """Hands an attention whose query, key and value are the parts of one product that product whole."""
    for node in graph:
        if node.op_type != ATTENTION or node.inputs[0] is None:
            continue
        split = node.inputs[0].producer()
        if split is not None and split.op_type == "Split" and list(split.outputs) == list(node.inputs[:3]):
            node.replace_input_with(0, split.inputs[0])
            node.replace_input_with(1, None)
            node.replace_input_with(2, None)


def _halve_scales(graph: ir.Graph) -> None:
    """Stores scales in two bytes where that changes none; ONNX Runtime widens them again when it loads the graph."""
    done: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        place = {PRODUCT: 2, "GatherBlockQuantized": 2}.get(node.op_type)
        scale = node.inputs[place] if place else None
        if place is None or scale is None or scale.const_value is None:
            continue
        if scale not in done:
            exact = scale.const_value.numpy()
            half = exact.astype(np.float16)
            if not np.array_equal(half.astype(exact.dtype), exact):
                continue
            stored = _constant(graph, f"{scale.name}_half", half)
            cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value})
            cast.outputs[0].dtype, cast.outputs[0].shape = ir.DataType.FLOAT, ir.Shape(exact.shape)
            graph.insert_before(graph[0], cast)
            done[scale] = cast.outputs[0]
        node.replace_input_with(place, done[scale])
    for scale in done:
        if not scale.uses() and scale.name is not None:
            del graph.initializers[scale.name]


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    while name in graph.initializers:
        name += "_"
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.dtype, value.shape = ir.DataType.from_numpy(array.dtype), ir.Shape(array.shape)
    graph.register_initializer(value)
    return value

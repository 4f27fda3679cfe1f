"""Makes a model narrower: removes units of a `Width` and rebuilds the layers they run through.

A pruned model is an ordinary, smaller model: whole layers with smaller tensors, no masks and no hooks. It is stored as
its config, the shapes that differ from what the config builds (`shapes_of`) and its tensors; `resize` followed by
``load_state_dict(strict=True)`` brings it back.

Removing a unit equals keeping it and zeroing the columns of its consumers. Where a unit passes a norm over the pruned
axis (LayerNorm, or a GroupNorm with one group) the statistics change too, and the equality is only approximate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Int64, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from triptych.errors import InputError
from triptych.structure import Member, Width

Shapes = dict[str, tuple[int, ...]]  # of a module's own tensors, by attribute name

GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}


def shrink(model: nn.Module, width: Width, keep: Int64[Tensor, "kept"]) -> None:
    """Remove all units of `width` but `keep` from the model, in place.

    Parameters are replaced by new, smaller ones (tied parameters stay tied), so an optimiser must be made afterwards.

    Args:
        model: the module to which the width's parameter names are relative.
        width: the units and the tensors they own.
        keep: the units that stay, ascending.

    Raises:
        InputError: `keep` is not an ascending choice of units, a name is not in the model, or an axis has another size.
    """
    check_keep(width, keep)
    cuts: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
    names: dict[int, str] = {}
    for member in (*width.producers, *width.consumers):
        tensor = tensor_of(model, member.parameter)
        check_member(width, member, tensor)
        indices = positions(member, width.units, keep)
        _, axes = cuts.setdefault(id(tensor), (tensor, {}))
        names.setdefault(id(tensor), member.parameter)
        if not torch.equal(axes.setdefault(member.axis % tensor.dim(), indices), indices):
            raise InputError(
                f"Width {width.name!r} cuts axis {member.axis} of {member.parameter!r} in two ways.",
                "Tied parameters must be cut alike.",
            )
    smaller = {}
    for key, (tensor, axes) in cuts.items():
        cut = tensor.detach()
        for axis, indices in axes.items():
            cut = cut.index_select(axis, indices.to(cut.device))
        smaller[names[key]] = cut
    _replace(model, smaller)


def resize(model: nn.Module, shapes: Mapping[str, Sequence[int]]) -> None:
    """Give the named parameters and buffers new shapes, in place; their contents are zeros until a state is loaded.

    The layers' own records follow (``out_features``, ``num_features``, ``hidden_size``, ``groups`` of depthwise
    convolutions, ...).

    Args:
        model: any module, on any device, the meta device included.
        shapes: new shape by full name, as `shapes_of` returns it.

    Raises:
        InputError: a name is not in the model, an axis appears or disappears, a layer is of a kind that cannot be
            resized, or the tensors of a layer no longer fit together.
    """
    empty = {}
    for name, shape in shapes.items():
        tensor = tensor_of(model, name)
        if len(shape) != tensor.dim() or any(size < 1 for size in shape):
            raise InputError(
                f"{name!r} of shape {tuple(tensor.shape)} cannot be resized to {tuple(shape)}.",
                "The shapes must come from a model of the same config.",
            )
        empty[name] = tensor.detach().new_zeros(tuple(shape))
    _replace(model, empty)


def shapes_of(model: nn.Module, reference: nn.Module) -> Shapes:
    """Shapes of `model`'s tensors that differ from those of `reference`, which is what the config alone builds.

    Args:
        model: the pruned model.
        reference: a freshly built one; the meta device will do.

    Returns:
        shape by name: the argument of `resize` that makes `reference` ready for the state of `model`.

    Raises:
        InputError: the two do not have the same tensors.
    """
    state, fresh = model.state_dict(), reference.state_dict()
    extra = sorted(state.keys() ^ fresh.keys())
    if extra:
        raise InputError(
            f"{extra[0]!r} stands in only one of the two models.", "Drop the same blocks from the reference first."
        )
    return {name: tuple(t.shape) for name, t in state.items() if t.shape != fresh[name].shape}


def positions(member: Member, units: int, keep: Int64[Tensor, "kept"]) -> Int64[Tensor, "_"]:
    """The indices of the member's axis that the kept units own, in the order in which they stand there."""
    repeat = torch.arange(member.repeat, device=keep.device) * (units * member.span)
    within = torch.arange(member.span, device=keep.device)
    return (repeat[:, None, None] + keep[None, :, None] * member.span + within).flatten()


def by_unit(tensor: Shaped[Tensor, "..."], member: Member, units: int) -> Shaped[Tensor, "units owned"]:
    """The tensor's entries gathered by the unit that owns them: one row a unit."""
    split = tensor.movedim(member.axis, 0).reshape(member.repeat, units, member.span, -1)
    return split.transpose(0, 1).reshape(units, -1)


def tensor_of(model: nn.Module, name: str) -> Tensor:
    """The parameter or persistent buffer of that name.

    Raises:
        InputError: there is none, or the buffer is not part of the state and could not be loaded again.
    """
    path, _, leaf = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
    except AttributeError:
        owner = None
    tensor = None if owner is None else owner._parameters.get(leaf, owner._buffers.get(leaf))
    if owner is None or tensor is None:
        raise InputError(f"The model has no tensor {name!r}.", "Widths and shapes must be of this model's config.")
    if leaf in owner._non_persistent_buffers_set:
        raise InputError(
            f"Buffer {name!r} is not saved, so its new shape could not be loaded.", "Register it with persistent=True."
        )
    return tensor


def check_keep(width: Width, keep: Int64[Tensor, "kept"]) -> None:
    """Raise InputError unless `keep` is an ascending, non-empty choice of the width's units."""
    if len(keep) == 0 or int(keep[0]) < 0 or int(keep[-1]) >= width.units or bool((keep.diff() <= 0).any()):
        raise InputError(
            f"The units to keep of width {width.name!r} are not ascending numbers from 0 to {width.units - 1}.",
            "Sort them, without repeats, and keep at least one.",
        )


def check_member(width: Width, member: Member, tensor: Shaped[Tensor, "..."]) -> None:
    """Raise InputError unless the member's axis has the size that its width says."""
    expected = member.repeat * width.units * member.span
    if not -tensor.dim() <= member.axis < tensor.dim() or tensor.shape[member.axis] != expected:
        raise InputError(
            f"Width {width.name!r} says {expected} for axis {member.axis} of {member.parameter!r}, "
            f"whose shape is {tuple(tensor.shape)}.",
            "Ask the model for its widths again; they change when it is pruned.",
        )


def _replace(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put new tensors in the place of old ones, under every name a tied one has, and settle the layers they are in."""
    aliases: dict[int, list[str]] = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)):
        aliases.setdefault(id(tensor), []).append(name)
    new: dict[int, Tensor] = {}
    owners: dict[str, nn.Module] = {}
    for name, tensor in tensors.items():
        old = tensor_of(model, name)
        first = new.setdefault(
            id(old), nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor
        )
        if first.shape != tensor.shape:
            raise InputError(f"{name!r} is tied to a tensor of another shape.", "Tied parameters must be cut alike.")
        for alias in aliases[id(old)]:
            path = alias.rpartition(".")[0]
            owners[path] = model.get_submodule(path)
    for path, owner in owners.items():
        _rule(path, owner)  # refuses what it does not know before anything is changed
    for key, tensor in new.items():
        for alias in aliases[key]:
            path, _, leaf = alias.rpartition(".")
            setattr(owners[path], leaf, tensor)
    for path, owner in owners.items():
        _settle(path, owner)


def _settle(path: str, module: nn.Module) -> None:
    """Let the layer's attributes follow its tensors, and see that the tensors fit each other."""
    for leaf, expected in _rule(path, module)(module).items():
        tensor = getattr(module, leaf, None)
        if tensor is not None and tuple(tensor.shape) != expected:
            raise InputError(
                f"{path}.{leaf} has shape {tuple(tensor.shape)} where {expected} is needed.".lstrip("."),
                "All tensors of a layer must be resized together, and whole groups at a time.",
            )


def _rule(path: str, module: nn.Module) -> Callable[[nn.Module], Shapes]:
    for kinds, rule in RULES:
        if isinstance(module, kinds):
            return rule
    kind = type(module)
    if kind.__module__.startswith("torch.nn") and not isinstance(module, nn.ParameterList | nn.ParameterDict):
        raise InputError(
            f"Layer {path!r} is a {kind.__name__}, whose width cannot be changed.",
            "Leave the widths that run through it whole.",
        )
    return lambda _: {}  # a module with bare parameters reads its sizes from them


def _linear(layer: nn.Linear) -> Shapes:
    layer.out_features, layer.in_features = layer.weight.shape
    return {"bias": (layer.out_features,)}


def _convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Shapes:
    outputs, inputs, *_ = layer.weight.shape
    if layer.groups > 1 and inputs == 1:  # depthwise: each channel is a group, so the groups go with the channels
        layer.groups = max(1, outputs * layer.groups // layer.out_channels)
    layer.out_channels, layer.in_channels = outputs, inputs * layer.groups
    whole = math.ceil(outputs / layer.groups) * layer.groups
    return {"weight": (whole, inputs, *layer.kernel_size), "bias": (outputs,)}


def _statistics_norm(layer: _NormBase) -> Shapes:
    held = layer.weight if layer.running_mean is None else layer.running_mean
    layer.num_features = len(held)
    return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (layer.num_features,))


def _layer_norm(layer: nn.LayerNorm | nn.RMSNorm) -> Shapes:
    layer.normalized_shape = tuple(layer.weight.shape)
    return {"bias": layer.normalized_shape}


def _group_norm(layer: nn.GroupNorm) -> Shapes:
    channels, group = len(layer.weight), layer.num_channels // layer.num_groups
    if layer.num_groups > 1:  # whole groups go, so that the statistics of the others stay what they were
        layer.num_groups = math.ceil(channels / group)
    layer.num_channels = channels
    whole = channels if layer.num_groups == 1 else layer.num_groups * group
    return dict.fromkeys(("weight", "bias"), (whole,))


def _embedding(layer: nn.Embedding) -> Shapes:
    layer.num_embeddings, layer.embedding_dim = layer.weight.shape
    rows = max(layer.num_embeddings, (layer.padding_idx or 0) + 1)  # the padding row must stay
    return {"weight": (rows, layer.embedding_dim)}


def _recurrent(layer: Any) -> Shapes:  # nn.RNNBase names its weights at run time
    gates = GATES[layer.mode]
    layer.hidden_size = layer.weight_hh_l0.shape[0] // gates
    layer.input_size = layer.weight_ih_l0.shape[1]
    if layer.proj_size:
        layer.proj_size = layer.weight_hr_l0.shape[0]
    state, directions = layer.proj_size or layer.hidden_size, 1 + layer.bidirectional
    shapes: Shapes = {}
    for depth in range(layer.num_layers):
        inputs = layer.input_size if depth == 0 else directions * state
        for direction in ("", "_reverse")[:directions]:
            end, rows = f"l{depth}{direction}", gates * layer.hidden_size
            shapes |= {f"weight_ih_{end}": (rows, inputs), f"weight_hh_{end}": (rows, state)}
            shapes |= {
                f"bias_ih_{end}": (rows,),
                f"bias_hh_{end}": (rows,),
                f"weight_hr_{end}": (state, layer.hidden_size),
            }
    layer._init_flat_weights()  # the list that the kernels read
    return shapes


RULES: tuple[tuple[type | tuple[type, ...], Callable[..., Shapes]], ...] = (
    (nn.Linear, _linear),
    ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _convolution),
    (_NormBase, _statistics_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.RNNBase, _recurrent),
)

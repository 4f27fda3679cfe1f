"""What training needs to go on after a kill: tensors as safetensors, everything else as JSON, in verified generations.

Nothing is pickled, so reading a checkpoint runs no code. Floats pass through JSON exactly (Python writes the shortest
text that reads back to the same bits), tensors as they are: training goes on to the same bits as if never stopped.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from triptych import artifact
from triptych.artifact import JSON
from triptych.errors import ArtifactError, InputError

TENSORS = "tensors.safetensors"
STATE = "state.json"


class Checkpoint(NamedTuple):
    """What `save_checkpoint` was given. The tensors are on the CPU."""

    step: int
    tensors: dict[str, Tensor]
    state: Any


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: JSON, *, keep: int = 2) -> Path:
    """Publish a checkpoint of this step as the current generation of `folder`; the `keep` newest stay.

    A step that is saved already stays as it is: a step stands for its content.

    Raises:
        Stopped: the disk is full; the checkpoint before is untouched.
        ArtifactError: another process saves here.
    """
    stored = _storable(tensors)
    text = json.dumps({"step": step, "state": state})

    def write(staging: Path) -> None:
        safetensors.torch.save_file(stored, str(staging / TENSORS))
        (staging / STATE).write_text(text, "utf-8")

    needs = sum(tensor.nbytes for tensor in stored.values()) + len(text)
    return artifact.save_generation(folder, f"step-{step:09d}", write, keep=keep, needs=needs)


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint, verified; None where nothing was ever saved.

    Raises:
        ArtifactError: there are checkpoints and none is whole, or the folder holds generations of something else.
    """
    latest = artifact.latest_generation(folder)
    if latest is None:
        return None
    if not (latest / TENSORS).is_file() or not (latest / STATE).is_file():
        raise ArtifactError(f"{latest} is not a checkpoint: it lacks {TENSORS} or {STATE}.", "Check the path.")
    saved = json.loads((latest / STATE).read_text("utf-8"))
    return Checkpoint(saved["step"], safetensors.torch.load_file(str(latest / TENSORS)), saved["state"])


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU, each with a storage of its own: safetensors refuses tied weights and views."""
    stored, seen = {}, set()
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        storage = plain.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != plain.nbytes:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        stored[name] = plain
    return stored


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], JSON]:
    """The whole state of SGD, Adam, AdamW (or any optimizer whose state is tensors and plain values), for a checkpoint.

    Returns:
        The tensors by name ("state.<parameter number>.<key>", "group.<number>.<key>"), and the rest in JSON values. The
        tensors share memory with the optimizer: save them before its next step.

    Raises:
        InputError: the state holds something that is neither; names the optimizer and the key.
    """
    kind = type(optimizer).__name__
    saved = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    sections = {"state": saved["state"], "group": dict(enumerate(saved["param_groups"]))}
    rest: dict[str, Any] = {"optimizer": kind, "state": {}, "group": {}}
    for section, entries in sections.items():
        for number, entry in entries.items():
            plain = rest[section][str(number)] = {}
            for key, value in entry.items():
                if isinstance(value, Tensor):
                    tensors[f"{section}.{number}.{key}"] = value.detach()
                elif _is_plain(value):
                    plain[key] = list(value) if isinstance(value, tuple) else value
                else:
                    raise InputError(
                        f"{kind} keeps {key!r} as {type(value).__name__}, which a checkpoint cannot hold.",
                        "Use SGD, Adam or AdamW.",
                    )
    return tensors, rest


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: JSON) -> None:
    """Put back what `optimizer_tensors` gave, to the bit, onto the devices of the parameters.

    `tensors` may hold other tensors too, but then under names of another beginning than "state." and "group.".

    Raises:
        ArtifactError: it was saved by another optimizer, or for other parameters; names what differs.
    """
    kind = type(optimizer).__name__
    if not isinstance(rest, dict) or rest.get("optimizer") != kind:
        was = rest.get("optimizer") if isinstance(rest, dict) else rest
        raise ArtifactError(
            f"The checkpoint holds the state of {was}, not of {kind}.", "Use the recipe it was made with."
        )
    sections: dict[str, dict[int, dict[str, Any]]] = {
        name: {int(number): dict(entry) for number, entry in rest[name].items()} for name in ("state", "group")
    }
    for name, tensor in tensors.items():
        section, _, place = name.partition(".")
        if section in sections:
            number, _, key = place.partition(".")
            sections[section].setdefault(int(number), {})[key] = tensor.clone()
    groups = [sections["group"][number] for number in sorted(sections["group"])]
    _check_fit(optimizer, groups, sections["state"])
    for ours, theirs in zip(optimizer.param_groups, groups, strict=True):
        for key, value in ours.items():
            if isinstance(value, tuple) and isinstance(theirs.get(key), list):
                theirs[key] = tuple(theirs[key])
    optimizer.load_state_dict({"state": sections["state"], "param_groups": groups})
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # Fused steps walk parameter and state through memory side by side, so both need one layout.
                state[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _check_fit(
    optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], state: dict[int, dict[str, Any]]
) -> None:
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in groups]
    if sizes != saved:
        raise ArtifactError(
            f"The checkpoint's optimizer has parameter groups of {saved} parameters and this model's of {sizes}.",
            "Use the recipe it was made with.",
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in groups for number in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        for key, value in state.get(number, {}).items():
            if isinstance(value, Tensor) and value.dim() and value.shape != parameter.shape:
                raise ArtifactError(
                    f"The checkpoint's {key} of parameter {number} has shape {tuple(value.shape)}; "
                    f"the parameter has {tuple(parameter.shape)}.",
                    "Use the recipe it was made with.",
                )


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)

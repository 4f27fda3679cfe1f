"""A Hugging Face model folder: its config, its architecture without weights, and its weights one at a time.

`skeleton` builds the model with every parameter on the meta device, so a model of any size costs kilobytes; `Weights`
then reads single parameters from disk under the names that the built model uses. transformers renames, splits and
merges the tensors of older checkpoints while it loads them; the same rules are applied here, tensor by tensor.
"""

import copy
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from accelerate.utils import set_module_tensor_to_device
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
from transformers.initialization import no_init_weights

from triptych.compress.quantize.layers import QuantizedWeight
from triptych.errors import ArtifactError, InputError, NumericsError
from triptych.manifest import MANIFEST, verify
from triptych.models.rounded import RoundedEntry, with_codes
from triptych.models.tensors import AGAIN, Entry, read_index

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")  # of a block, within a name
PART = 1 << 22  # numbers of a tensor that are looked at together


@dataclass(frozen=True)
class ModelFolder:
    """What a folder says about its model, before any weight is read.

    Attributes:
        path: the folder.
        config: as transformers reads it.
        architecture: the class that is built.
        entries: every stored tensor by its name on disk.
    """

    path: Path
    config: PreTrainedConfig
    architecture: type[PreTrainedModel]
    entries: dict[str, Entry]

    @property
    def dtype(self) -> torch.dtype:
        """The type that a reader computes in: that of the config, or else of the weights."""
        said = getattr(self.config, "dtype", None)
        stored = next((e.dtype for e in self.entries.values() if e.dtype.is_floating_point), torch.float32)
        return said if isinstance(said, torch.dtype) else stored

    @property
    def bytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(entry.bytes for entry in self.entries.values())


def open_folder(path: Path, *, rounded: bool = False) -> ModelFolder:
    """Read a folder's config and the headers of its weights.

    Args:
        path: the folder.
        rounded: take a folder whose weights we rounded too, each as what its codes stand for.

    Raises:
        ArtifactError: no config, no safetensors, a missing or damaged shard, a manifest that says otherwise.
        InputError: the model type or class is unknown, it brings code of its own, or it is quantised already.
    """
    if (path / MANIFEST).is_file():  # one that Triptych wrote: whatever was changed since is known
        verify(path)
    try:
        said = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} holds no readable config.json: {error}.", "Point at a model folder.") from error
    if not isinstance(said, dict) or not said.get("model_type"):
        raise ArtifactError(f"{path / 'config.json'} names no model_type.", AGAIN)
    if said.get("auto_map"):
        raise InputError(
            f"{path} brings code of its own ({', '.join(map(str, said['auto_map']))}), which is not run.",
            "Use a version of the model that is part of transformers, or convert it to one.",
        )
    codes = said.get("quantization_config")
    if codes and not rounded:
        method = codes.get("quant_method", "some method")
        raise InputError(f"{path} is quantised already ({method}).", "Point at the model it was made from.")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise InputError(
            f"transformers {transformers.__version__} cannot read {path / 'config.json'}: {' '.join(str(error).split())[:300]}",
            "Mend the config, or install a version of transformers that knows this model type.",
        ) from error
    names = config.architectures or []
    architecture = getattr(transformers, names[0], None) if names else None
    if not (isinstance(architecture, type) and issubclass(architecture, PreTrainedModel)):
        raise InputError(
            f"{path / 'config.json'} asks for the architecture {names[0] if names else None!r}, which transformers "
            f"{transformers.__version__} does not have.",
            'Name a class of transformers under "architectures".',
        )
    entries = read_index(path)
    if codes:
        del config.quantization_config  # whoever meets it takes the model's layers for another library's
        entries = with_codes(entries, codes, path)
    return ModelFolder(path, config, architecture, entries)


def fingerprint(folder: ModelFolder) -> str:
    """A checksum of the config and of every tensor's place, and of size and time of every shard: cheap at any size."""
    digest = hashlib.sha256((folder.path / "config.json").read_bytes())
    for name, entry in sorted(folder.entries.items()):
        digest.update(f"{name} {entry.dtype} {entry.shape} {entry.start}".encode())
    for file in sorted({entry.file for entry in folder.entries.values()}):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def skeleton(folder: ModelFolder) -> PreTrainedModel:
    """The model in evaluation mode, its parameters on the meta device, its buffers real (those on disk are loaded).

    Raises:
        InputError: the config does not build.
    """
    try:
        with init_empty_weights(include_buffers=False), no_init_weights():
            model = folder.architecture(copy.deepcopy(folder.config))
    except Exception as error:
        raise InputError(
            f"{folder.architecture.__name__} cannot be built from {folder.path / 'config.json'}: {error}.", AGAIN
        ) from error
    model.tie_weights()
    for module in model.modules():  # nothing is generated here, and a cache would keep every layer's keys and values
        config: Any = getattr(module, "config", None)
        if getattr(config, "use_cache", None) is not None:
            config.use_cache = False
    return model.eval().requires_grad_(False)


def load(folder: ModelFolder) -> tuple[PreTrainedModel, dict[str, QuantizedWeight]]:
    """The model whole in memory, in float32, and the codes of its rounded weights by parameter name.

    Raises:
        ArtifactError, InputError: as `skeleton` and `find_weights`.
    """
    model = skeleton(folder)
    weights = find_weights(folder, model)
    for name in [name for name, _ in model.named_parameters()]:
        set_module_tensor_to_device(model, name, "cpu", value=weights.read(name))
    model.tie_weights()
    stored = {name: weights.entry(name) for name, _ in model.named_parameters()}
    return model, {name: entry.item() for name, entry in stored.items() if isinstance(entry, RoundedEntry)}


@dataclass(frozen=True)
class Source:
    """Where one parameter comes from: stored tensors, and how they become it (None: as they are)."""

    keys: tuple[str, ...]
    convert: Callable[[], Mapping[str, Tensor]] | None = None


@dataclass
class Weights:
    """The weights of a model on disk, by the names that the built model gives them."""

    folder: ModelFolder
    sources: dict[str, Source]
    unused: tuple[str, ...] = ()  # stored, but the model has no place for them
    dtype: torch.dtype = field(default=torch.float32)

    def read(self, name: str) -> Tensor:
        """One parameter or buffer; floating point in `dtype`."""
        source = self.sources[name]
        tensor = source.convert()[name] if source.convert else self.folder.entries[source.keys[0]].read()
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def parts(self, name: str, count: int) -> Iterator[Tensor]:
        """A parameter in `count` rows at a time."""
        entry = self.entry(name)
        if entry is None:
            yield from self.read(name).split(count)
            return
        for first in range(0, entry.shape[0], count):
            yield entry.read(first, count).to(self.dtype)

    def rows(self, name: str, which: Tensor) -> Tensor:
        """Some rows of a parameter."""
        entry = self.entry(name)
        return self.read(name)[which] if entry is None else entry.rows(which).to(self.dtype)

    def require_finite(self) -> None:
        """See that no tensor that the model uses holds NaN or infinity; a part of one at a time is in memory.

        Raises:
            NumericsError: one does; names it.
        """
        for key in sorted({key for source in self.sources.values() for key in source.keys}):
            entry = self.folder.entries[key]
            if not entry.dtype.is_floating_point or entry.dtype.itemsize == 1:
                continue
            count = max(1, PART // max(1, math.prod(entry.shape[1:])))
            for first in range(0, entry.shape[0] if entry.shape else 1, count):
                part = entry.read(first, count) if entry.shape else entry.read()
                if not bool(part.sum(dtype=torch.float32).isfinite()):
                    raise NumericsError(
                        f"{key} in {entry.file} holds NaN or infinity.",
                        "Fetch the model again, or train it again.",
                    )

    def entry(self, name: str) -> Entry | None:
        """The stored tensor that is this parameter as it is, or None where it is made from several."""
        source = self.sources[name]
        return None if source.convert else self.folder.entries[source.keys[0]]

    def stored_name(self, name: str) -> str:
        """The name on disk of a parameter that is stored as it is; the model's own name elsewhere."""
        source = self.sources[name]
        return name if source.convert else source.keys[0]


def stored_bytes(model: nn.Module, weights: Weights) -> dict[str, int]:
    """Bytes on disk of every parameter by its first name; one stored tensor that several are made from is shared out."""
    names = [name for name, _ in model.named_parameters() if name in weights.sources]
    keys = {name: weights.sources[name].keys for name in names}
    users = Counter(key for name in names for key in keys[name])
    return {name: sum(weights.folder.entries[key].bytes // users[key] for key in keys[name]) for name in names}


def find_weights(folder: ModelFolder, model: PreTrainedModel) -> Weights:
    """Match what is stored with what the model needs.

    Raises:
        ArtifactError: a parameter is stored nowhere, or with another shape; names it.
    """
    mapping = get_model_conversion_mapping(model)
    renamings = [rule for rule in mapping if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in mapping if isinstance(rule, WeightConverter)]
    owner = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    wanted = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    prefix, sources, unused = model.base_model_prefix, dict[str, Source](), dict[str, str]()
    merged: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    for key in sorted(folder.entries, key=dot_natural_key):
        name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
        if name not in wanted and key in wanted:
            name, pattern = key, None
        if name not in wanted:
            unused[key] = name
        elif pattern is None:
            sources[name] = Source((key,))
        else:
            merged.setdefault(name, (pattern, []))[1].append((pattern, key))
    for name, (pattern, found) in merged.items():
        for made, source in _converted(folder, model, owner[pattern], name, found):
            sources[made] = source
    _share_tied(model, sources)
    _refuse_cut(folder, model, unused)
    weights = Weights(folder, sources, tuple(unused))
    _complete(weights, model)
    return weights


def _refuse_cut(folder: ModelFolder, model: PreTrainedModel, unused: Mapping[str, str]) -> None:
    """A tensor without a place that differs from one with a place in a number alone is of a block that the config cut off.

    Other tensors without a place (old buffers, heads of other tasks) are passed over, as transformers does.
    """
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    stacks = {NUMBER.sub("#", name) for name, _ in model.named_parameters(remove_duplicate=False)}
    for key, name in unused.items():
        if NUMBER.sub("#", name) in stacks and not any(pattern.search(name) for pattern in ignored):
            raise ArtifactError(
                f"{folder.entries[key].file} stores {key}, but the config of {folder.path} makes no place for it.",
                "Fetch the folder again: config and weights are not of one model.",
            )


def _converted(
    folder: ModelFolder, model: PreTrainedModel, rule: WeightConverter, name: str, found: list[tuple[str, str]]
) -> Iterator[tuple[str, Source]]:
    """The parameters that one rule makes from several stored tensors, or several from one."""

    def convert() -> Mapping[str, Tensor]:
        fresh = copy.deepcopy(rule)
        for pattern, key in found:
            fresh.add_tensor(name, key, pattern, folder.entries[key].read)
        made = fresh.convert(name, model=model, config=model.config)
        return {n: t[0] if isinstance(t, list) else t for n, t in made.items()}

    keys = tuple(key for _, key in found)
    for target in rule.target_patterns:
        yield name.replace(rule.target_patterns[0], target), Source(keys, convert)


def _share_tied(model: PreTrainedModel, sources: dict[str, Source]) -> None:
    """Give every name of a shared parameter the source that one of them has."""
    by_tensor: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_tensor.setdefault(id(parameter), []).append(name)
    for names in by_tensor.values():
        source = next((sources[name] for name in names if name in sources), None)
        if source is not None:
            for name in names:
                sources.setdefault(name, source)


def _complete(weights: Weights, model: PreTrainedModel) -> None:
    """Load stored buffers, and see that no parameter is missing or misshapen."""
    path = weights.folder.path
    for name, parameter in model.named_parameters():
        if name not in weights.sources:
            raise ArtifactError(
                f"{path} stores no tensor for the parameter {name!r} of {type(model).__name__}.",
                "Fetch the folder again, or mend the architecture that its config.json names.",
            )
        entry = weights.entry(name)
        if entry is not None and entry.shape != tuple(parameter.shape):
            raise ArtifactError(
                f"{weights.stored_name(name)} in {entry.file} has the shape {entry.shape}, but the config asks for "
                f"{tuple(parameter.shape)}.",
                "Fetch the folder again: config and weights are not of one model.",
            )
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in weights.sources:
                buffer.copy_(weights.read(name))


def is_ours(path: Path) -> bool:
    """Whether the folder holds a model that Triptych built."""
    try:
        said: Any = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(said, dict) and said.get("model_type") == "triptych"

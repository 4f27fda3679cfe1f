"""How much of each modality reached each component during calibration: hooks on its blocks while the samples run.

A component that no sample reached would be compressed against nothing, so it is an error before any work is done.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from triptych import console
from triptych.compress.inputs.expected import accepted
from triptych.errors import InputError
from triptych.models.tiny_batch import ModelBatch
from triptych.models.words import is_text

COLUMNS = {
    "image": "a column of images (paths of .png or .jpg files)",
    "video": "a column of videos (paths of .mp4 files)",
    "audio": "a column of sounds (paths of .wav or .flac files)",
    "text": "a column of text",
}


@runtime_checkable
class Part(Protocol):
    """What is asked of a component: `blocks` are dotted names of modules."""

    @property
    def name(self) -> str: ...  # noqa: D102 - as the class says

    @property
    def modalities(self) -> Sequence[str]: ...  # noqa: D102

    @property
    def blocks(self) -> Sequence[str]: ...  # noqa: D102

    def owns(self, parameter: str, /) -> bool: ...  # noqa: D102


@dataclass(frozen=True)
class Coverage:
    """What reached one component.

    Attributes:
        component: its name.
        samples: how many samples of each of its modalities.
        tokens: how many positions of each of its modalities stood in the sequence that went through it. A modality that
            comes in by cross-attention alone has samples and no tokens.
    """

    component: str
    samples: Mapping[str, int]
    tokens: Mapping[str, int]

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities of the component that no sample brought."""
        return tuple(modality for modality, count in self.samples.items() if count == 0)


@dataclass
class _Count:
    """What has reached one component so far; `positions` are those of the first input it was given in the running batch."""

    modalities: tuple[str, ...]
    samples: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    positions: int | None = None

    def see(self, module: nn.Module, given: Sequence[Any]) -> None:
        if self.positions is None:
            tensor = next((x for x in given if isinstance(x, Tensor) and x.ndim > 1), None)
            self.positions = 0 if tensor is None else _positions(module, tensor)

    def add(self, batch: ModelBatch) -> None:
        """Enter what the batch that has just run brought."""
        if self.positions is not None:
            brought = [modality for modality in self.modalities if modality in _brought(batch)]
            self.samples.update(dict.fromkeys(brought, batch.rows))
            self._add_tokens(batch, brought, self.positions)
        self.positions = None

    def _add_tokens(self, batch: ModelBatch, brought: Sequence[str], positions: int) -> None:
        """The language sequence is known by its length; any other belongs to the one modality that is there."""
        words = [
            batch.inputs[name] for name, modality in batch.modality.items() if is_text(name) and modality == "text"
        ]
        if "text" in self.modalities and batch.tokens is not None and batch.tokens.numel() == positions:
            codes = Counter(batch.tokens.flatten().tolist())
            self.tokens.update({m: codes[batch.names.index(m)] for m in brought if m in batch.names})
        elif len(brought) == 1:
            self.tokens[brought[0]] += positions
        elif "text" in brought and any(ids.numel() == positions for ids in words):
            self.tokens["text"] += positions


def _brought(batch: ModelBatch) -> set[str]:
    """The modalities of a batch."""
    here = set(batch.modality.values())
    if batch.tokens is not None:
        here |= {batch.names[code] for code in batch.tokens.unique().tolist() if code >= 0}
    return here


def coverage(model: nn.Module, components: Iterable[Part], batches: Iterable[ModelBatch]) -> list[Coverage]:
    """What of the batches reaches each component.

    Args:
        model: with real weights (what it computes decides where experts send a token, and nothing else here).
        components: in the order in which they are to be listed.
        batches: such as `calibration` makes.

    Raises:
        InputError: a component saw no sample of any of its modalities, or the model does not accept a batch.
    """
    counts: dict[str, _Count] = {}
    watched: list[tuple[nn.Module, _Count]] = []
    for component in components:
        modules = _watched(model, component) if component.modalities else []
        if modules:  # a component that owns nothing, such as a tied head, is what it is tied to
            count = counts[component.name] = _Count(tuple(component.modalities))
            watched += [(module, count) for module in modules]
    training = model.training
    with _hooks(watched), torch.no_grad():
        try:
            model.eval()
            for number, batch in enumerate(batches, 1):
                with accepted(model, batch, f"calibration batch {number}"):
                    model(**batch.inputs)
                for count in counts.values():
                    count.add(batch)
        finally:
            model.train(training)
    found = _table(counts)
    for one in found:
        if len(one.missing) == len(one.samples):
            wanted = " or ".join(one.missing)
            raise InputError(
                f"No calibration sample reached {one.component}: none has {wanted}.",
                f"Add {' or '.join(COLUMNS.get(m, f'inputs of {m}') for m in one.missing)} to the calibration data, or "
                f"leave {one.component} out of the plan.",
            )
    return found


def counted(
    components: Iterable[Part], positions: Mapping[str, Mapping[int, int]], batches: Sequence[ModelBatch]
) -> list[Coverage]:
    """The coverage of a run that was watched by someone else.

    Args:
        components: in the order in which they are to be listed; those that nothing reached are left out.
        positions: by component and batch number, how many vectors its first layer was given.
        batches: that were run.
    """
    counts = {}
    for component in components:
        count = _Count(tuple(component.modalities))
        for number, vectors in sorted(positions.get(component.name, {}).items()):
            count.positions = vectors
            count.add(batches[number])
        if component.name in positions:
            counts[component.name] = count
    return _table(counts)


def _table(counts: Mapping[str, _Count]) -> list[Coverage]:
    return [
        Coverage(name, {m: c.samples[m] for m in c.modalities}, {m: c.tokens[m] for m in c.modalities})
        for name, c in counts.items()
    ]


def show(found: Sequence[Coverage]) -> None:
    """The coverage as a table, and a warning for every modality that a component mixes with others but never saw."""
    rows = [
        [one.component, modality, f"{one.samples[modality]:,}", f"{one.tokens[modality]:,}"]
        for one in found
        for modality in one.samples
    ]
    console.table("calibration coverage", ["component", "modality", "samples", "tokens"], rows)
    for modality in dict.fromkeys(m for one in found for m in one.missing):
        names = [one.component for one in found if modality in one.missing]
        column = COLUMNS.get(modality, f"inputs of {modality}")
        console.warn(f"no {modality} among the samples of {', '.join(names)}; add {column} if the model is to keep it")


def _watched(model: nn.Module, component: Part) -> list[nn.Module]:
    """The blocks of a component; of one without blocks the modules that hold its parameters."""
    if component.blocks:
        return [model.get_submodule(name) for name in component.blocks]
    holders = {
        name.rpartition(".")[0] for name, _ in model.named_parameters(remove_duplicate=False) if component.owns(name)
    }
    return [model.get_submodule(name) for name in sorted(holders)]


@contextmanager
def _hooks(watched: Sequence[tuple[nn.Module, _Count]]) -> Iterator[None]:
    def hook(count: _Count) -> Callable[..., None]:
        return lambda module, args, kwargs: count.see(module, [*args, *kwargs.values()])

    handles = [m.register_forward_pre_hook(hook(count), with_kwargs=True) for m, count in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _positions(module: nn.Module, x: Tensor) -> int:
    """Vectors in an input: all ids, positions of a convolution's map, else everything but the last axis."""
    if not x.is_floating_point():
        return x.numel()
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    stem = next((m for m in module.modules() if isinstance(m, (*kinds, nn.Linear))), None)
    channels = 1 if isinstance(stem, kinds) and x.ndim == stem.weight.ndim else x.ndim - 1
    return x.numel() // max(x.shape[channels], 1)

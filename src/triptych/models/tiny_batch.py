"""A small valid batch for any model, from its forward signature, its config and, where the folder has one, its processor.

No model family is named here. The names of the inputs say what they hold, the config says how large, and the model says the rest:
a guess counts once the model has run on it. How many placeholders an image needs is read off the model too. It is run with too
few; the tensors as wide as its word embeddings that it made before it refused end with the features it wanted to put in their place.
"""

import inspect
import itertools
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from triptych.errors import InputError
from triptych.models.config_keys import ConfigKeys, modality_of
from triptych.models.media import is_companion, is_media, media_inputs
from triptych.models.processed import processed_inputs
from triptych.models.words import Words, is_text

_PROBE = 3  # placeholders of the run that reads how many are wanted
_COUNTS = 4  # of the counts read, how many are tried, the latest first


@dataclass(frozen=True)
class ModelBatch:
    """One batch that a model accepts, and which modality each part of it carries.

    Args:
        inputs: keyword arguments of forward.
        modality: by input name, "image", "video", "audio" or "text"; inputs that carry none (masks, grids, lengths) are left out.
        tokens: [batch, tokens], for each position of the language sequence (`input_ids`, or else the decoder's ids) the index of its
            modality in `names`; None where the model has no such sequence.
        names: the modalities that `tokens` counts in.
    """

    inputs: dict[str, Any]
    modality: dict[str, str]
    tokens: Tensor | None
    names: tuple[str, ...]

    @property
    def rows(self) -> int:
        """How many samples it holds."""
        if self.tokens is not None:
            return len(self.tokens)
        return next((len(x) for x in self.inputs.values() if isinstance(x, Tensor)), 1)


def tiny_batch(model: nn.Module, folder: Path | None = None, *, rows: int = 2, seed: int = 0) -> ModelBatch:
    """A batch of noise and random words that the model has run on, as small as its config allows.

    Args:
        model: on any device; it is left as it was.
        folder: where the model's processor is, if anywhere; it is asked for a batch when guessing fails.
        rows: samples in the batch.
        seed: of the values, and of what the model itself draws; the global generator is left alone.

    Raises:
        InputError: an input could not be guessed; the message names it and says how to give it.
    """
    with _evaluating(model, seed):
        search = _Search(model, rows, seed)
        try:
            return search.batch()
        except InputError as refusal:
            if folder is None:
                raise
            return search.processed(folder, refusal)


@contextmanager
def _evaluating(model: nn.Module, seed: int) -> Iterator[None]:
    """No gradients, evaluation mode, a forked generator, and no warnings about guesses that were wrong."""
    with _unchanged(model), torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model.eval()
        yield


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Undo what a run notes on the modules: some shrink their windows to a small image for good, or keep its positions."""
    kept = [
        (
            module,
            dict(vars(module)),
            {key: dict(value) for key, value in vars(module).items() if isinstance(value, dict)},
        )
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes, contents in kept:
            vars(module).clear()
            vars(module).update(attributes)
            for (
                key,
                content,
            ) in contents.items():  # parameters, buffers, hooks: held in dictionaries that runs may add to
                attributes[key].clear()
                attributes[key].update(content)


class _Watch(TorchDispatchMode):
    """Counts operations, and notes how many rows of `width` each of their results holds, the latest last.

    Features put in the place of fewer placeholders than there are features are refused, as most models do themselves; some would
    drop the rest without a word.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width, self.steps = width, 0
        self.heights: dict[int, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.masked_scatter.default and args[0].shape[-1] == self.width:
            places, features = int(args[1].expand_as(args[0]).sum()), args[2].numel()
            if places != features:
                self._note(features)
                raise InputError(f"{places // self.width} placeholders stand for {features // self.width} features.")
        result = func(*args, **(kwargs or {}))
        self.steps += 1
        if (
            isinstance(result, Tensor)
            and result.is_floating_point()
            and result.ndim > 1
            and result.shape[-1] == self.width
        ):
            self._note(result.numel())
        return result

    def _note(self, numbers: int) -> None:
        height = numbers // self.width
        self.heights.pop(height, None)
        self.heights[height] = None


@dataclass(frozen=True)
class _Refused:
    """How far a run got, in operations; what the model said; and the heights of all it made that is as wide as a word."""

    steps: int
    said: str
    heights: list[int]


@dataclass
class _Found:
    """What has been settled: media with their companions, their modalities, placeholders a row by modality, and all inputs."""

    media: dict[str, Tensor] = field(default_factory=dict)
    modality: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)


class _Search:
    """Settles one medium after the other, each by running the model on one guess after the other."""

    def __init__(self, model: nn.Module, rows: int, seed: int) -> None:
        self.model, self.rows, self.seed = model, rows, seed
        self.keys = ConfigKeys(getattr(model, "config", None))
        self.names, self.required = _inputs(model)
        self.media = [name for name in self.names if is_media(name)]
        self.words = Words(model, self.keys, self.names, rows, seed)
        self.place = next(model.parameters(), torch.empty(0))
        self.variants = self.words.variants()
        # Of the guess that got furthest: its operations, what the model said, and the inputs it asked for that it was not given.
        self.furthest, self.said, self.asked = -1, "nothing was tried", list[str]()

    def batch(self) -> ModelBatch:
        """The batch, by guesses alone."""
        unknown = [name for name in self.required if not (is_media(name) or is_text(name) or is_companion(name))]
        if unknown or not (self.media or self.words.names):
            raise self._refusal(unknown or ["inputs"], "its name does not say what it holds")
        found = _Found()
        late = [
            name for name in self.media if not self._settle(found, [name])
        ]  # one at a time: a failure is that input's
        if found.media:
            late = [name for name in late if not self._settle(found, [name])]  # it may need one that came after it
        if late and not (len(late) > 1 and self._settle(found, late)):
            raise self._refusal(late, self.said)
        if not self.media and not self._settle(found, []):
            raise self._refusal(self.words.names, self.said)
        return self._result(found.inputs, found.modality)

    def processed(self, folder: Path, refusal: InputError) -> ModelBatch:
        """The batch that the folder's processor makes, once the model has run on it; the refusal of guesses if it makes none."""
        try:
            made = processed_inputs(folder, self.rows, self.seed)
        except InputError as error:
            raise InputError(f"{refusal.what} {error.what}", refusal.next) from error
        inputs = self._placed({name: value for name, value in made.items() if name in self.names})
        refused = self._run(inputs) if inputs else None
        if refused or not inputs:
            why = refused.said if refused else f"the processor in {folder} makes none of them"
            raise self._refusal(self.media or list(self.names), why)
        return self._result(inputs, {name: str(modality_of(name)) for name in inputs if is_media(name)})

    def _result(self, inputs: dict[str, Any], media: dict[str, str]) -> ModelBatch:
        tokens, names = self.words.tokens(inputs)
        text = {name: "text" for name in inputs if is_text(name)}
        return ModelBatch(
            inputs, {name: (media | text)[name] for name in inputs if name in media | text}, tokens, names
        )

    def _settle(self, found: _Found, names: Sequence[str]) -> bool:
        """Add these media by the first guesses that run together with all that is settled."""
        for variant in list(self.variants):
            guesses = [media_inputs(name, self.names, self.keys, self.rows, self.seed) for name in names]
            # A product draws all its tensors beforehand; a single input's are drawn one by one.
            together = zip(*guesses, strict=True) if len(names) == 1 else itertools.product(*guesses)
            for combined in together:
                tensors = {name: tensor for _, inputs in combined for name, tensor in inputs.items()}
                modality = dict(zip(names, (modality for modality, _ in combined), strict=True))
                if self._fit(found, tensors, modality, variant):
                    return True
        return False

    def _fit(
        self, found: _Found, media: dict[str, Tensor], modality: dict[str, str], variant: tuple[bool, bool]
    ) -> bool:
        """Run one guess, and again with the counts of placeholders that it turns out to want."""
        wanted = [m for m in dict.fromkeys(modality.values()) if m in self.words.placeholders and m not in found.counts]
        first = self._try(found, media, modality, dict.fromkeys(wanted, _PROBE), variant)
        if first is None:
            return True
        per_row = [h // self.rows for h in reversed(first.heights) if h % self.rows == 0][:_COUNTS] if wanted else []
        for counts in itertools.product(per_row, repeat=len(wanted)) if wanted else ():
            refused = self._try(found, media, modality, dict(zip(wanted, counts, strict=True)), variant)
            if refused is None:
                return True
            if (refused.steps, refused.said) == (first.steps, first.said):
                return False  # the very same words at another count: it is not the count that is wrong
        return False

    def _try(
        self,
        found: _Found,
        media: dict[str, Tensor],
        modality: dict[str, str],
        counts: dict[str, int],
        variant: tuple[bool, bool],
    ) -> _Refused | None:
        """None when the model ran on it, and it is then settled."""
        counts = found.counts | counts
        text = self.words.inputs(counts, decoder=variant[0], masks=variant[1])
        inputs = self._placed(found.media | media | text)
        refused = self._run(inputs)
        if refused:
            return refused
        found.media |= media
        found.modality |= modality
        found.counts, found.inputs = counts, inputs
        self.variants.sort(key=lambda other: other != variant)  # what worked once is tried first
        return None

    def _run(self, inputs: dict[str, Any]) -> _Refused | None:
        watch = _Watch(self.words.width)
        try:
            with _unchanged(self.model), watch:
                self.model(**inputs)
        except Exception as error:  # noqa: BLE001 - a wrong guess may fail in any way; the model's own words are kept
            said = f"{type(error).__name__}: {str(error)[:300]}"
            if watch.steps > self.furthest:
                shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
                self.furthest, self.said = watch.steps, f"with {shapes}: {said}"
                self.asked = [n for n in self.names if n not in inputs and re.search(rf"\b{n}\b", str(error))]
            return _Refused(watch.steps, said, list(watch.heights))
        return None

    def _placed(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the model's device; real numbers in its precision."""
        dtype = self.place.dtype if self.place.is_floating_point() else None
        return {
            name: value.to(self.place.device, dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _refusal(self, names: Sequence[str], why: str) -> InputError:
        """An error that names the inputs to give: these, and those that the model itself asks for."""
        listed = " and ".join(repr(name) for name in dict.fromkeys([*names, *self.asked]))
        return InputError(
            f"Could not guess the input {listed} of {type(self.model).__name__} ({why}).",
            "Put the model's processor into its folder, or give rows that it reads, or a safetensors file that holds "
            f"{listed} (`triptych inspect MODEL --data`; in Python, a ModelBatch whose inputs hold {listed}).",
        )


def _inputs(model: nn.Module) -> tuple[list[str], list[str]]:
    """The names of forward's inputs, and of those without a default."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = [p for p in inspect.signature(model.forward).parameters.values() if p.kind in named]
    return [p.name for p in parameters], [p.name for p in parameters if p.default is inspect.Parameter.empty]

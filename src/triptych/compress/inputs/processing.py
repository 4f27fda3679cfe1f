"""One sample through the model's own processor and chat template, as one batch of one row.

Nothing is known of families. How a processor wants its words (a chat template with typed parts, one with plain strings,
bare text, text led by placeholders) is tried in that order, and the first way after which every medium stands in the
language sequence is the right one.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from triptych.compress.inputs.expected import NAMES, Expected, MisfitError, carried
from triptych.compress.inputs.loading import FAILURES, load_processor, parts_of
from triptych.compress.inputs.rows import Sample
from triptych.errors import InputError
from triptych.models.tiny_batch import ModelBatch

CUTS = 4  # times that a text is shortened before its row is given up: cutting tokens may join others anew
ENDLESS = 1_000_000  # tokenizers that know no longest text say so with a very large number


class ProcessorError(InputError):
    """The processor refuses a sample that could be read."""


class ModelProcessor:
    """Makes batches of samples.

    Args:
        expected: what the model takes.
        length: most tokens of text in a row; placeholders of media are not counted. Default: as many as the model has
            positions for.

    Raises:
        InputError: the folder holds no processor.
        MisfitError: the processor is of another model.
    """

    def __init__(self, expected: Expected, length: int | None = None) -> None:
        self.expected, self.length = expected, length
        self.processor = load_processor(expected.folder, expected.config)
        self.parts = parts_of(self.processor)
        self.name = type(self.processor if len(self.parts) > 1 else next(iter(self.parts.values()))).__name__
        self.reads = frozenset(self.parts) & (expected.modalities | ({"text"} if expected.generates else set()))
        self._ways: dict[frozenset[str], int] = {}
        self._refuse_misfit()

    @property
    def sampling_rate(self) -> int:
        """In Hz, of the sounds that the processor reads."""
        return int(getattr(self.parts.get("audio"), "sampling_rate", 16_000))

    @cached_property
    def required(self) -> frozenset[str]:
        """Modalities that every row must have: those with an input but no place of their own in a language sequence."""
        media = {m for m in self.reads & {"image", "audio"} if m not in self.expected.placeholders}
        text = "text" in self.reads & self.expected.modalities and not self.expected.placeholders
        return frozenset(media | ({"text"} if text else set()))

    def batch(self, sample: Sample) -> ModelBatch:
        """The forward's arguments for one sample.

        Raises:
            MisfitError: the processor does not fit the model.
            InputError: the sample lacks what the model needs, or is too long, or the processor refuses it.
        """
        sample = self._complete(sample)
        for _ in range(CUTS):
            batch = self.expected.batch(self._inputs(sample), self.name)
            excess = self._excess(batch)
            if excess <= 0:
                return batch
            sample = self._shortened(sample, excess)
        raise InputError("Its text could not be cut to length.", "Shorten it.")

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.parts["text"](text, add_special_tokens=False)["input_ids"])

    def _refuse_misfit(self) -> None:
        expected, giver = self.expected, f"{self.name} in {self.expected.folder}"
        if not self.reads & expected.modalities:
            inputs = sorted(name for name in expected.takes or () if carried(name) and "decoder" not in name)
            raise MisfitError(
                f"{giver} reads {', '.join(self.parts)}, but the forward of {expected.architecture} takes "
                f"{', '.join(inputs)}.",
                "Put the processor that belongs to this model there.",
            )
        for modality in sorted(self.reads - {"text"}):
            given = getattr(self.parts[modality], "model_input_names", None) or [""]
            if expected.takes is not None and carried(given[0]) and given[0] not in expected.takes:
                wanted = sorted(n for n in expected.takes if carried(n) == modality)
                raise MisfitError(
                    f"{type(self.parts[modality]).__name__} in {expected.folder} gives {given[0]}, but the forward of "
                    f"{expected.architecture} takes {', '.join(wanted)}.",
                    "Put the processor that belongs to this model there.",
                )
        audio = self.parts.get("audio") if "audio" in self.reads else None
        bins = getattr(audio, "num_mel_bins", None) or getattr(audio, "feature_size", None)
        if audio is not None and bins and bins > 1 and expected.mels and bins != expected.mels:
            raise MisfitError(
                f"{type(audio).__name__} in {expected.folder} makes {bins} mel bins, but {expected.architecture} reads "
                f"{expected.mels}.",
                "Put the processor that belongs to this model there.",
            )

    def _complete(self, sample: Sample) -> Sample:
        """The sample as the model can read it: a model without placeholders reads one picture and one sound a row."""
        here = {*sample.media, *(["text"] if sample.text or sample.answer else [])} & self.reads
        lacking = [m for m in NAMES if m in self.required - here]
        if lacking or not here:
            what = " and ".join(lacking or sorted(self.reads))
            raise InputError(f"It has no {what}, which {self.expected.architecture} needs.", "Fill the cell.")
        kept: dict[str, Any] = {}
        for modality, name in (("image", "images"), ("audio", "sounds"), ("video", "clips")):
            most = None if modality in self.expected.placeholders else 1
            kept[name] = getattr(sample, name)[:most] if modality in self.reads else ()
        return replace(sample, **kept)

    def _inputs(self, sample: Sample) -> dict[str, Tensor]:
        """The first way of prompting that the processor accepts; the one that worked last time is tried first."""
        prompts = dict(enumerate(self._prompts(sample)))
        kind = frozenset(sample.media)
        order = sorted(prompts, key=lambda way: (way != self._ways.get(kind), way))
        refused: Exception | None = None
        for way in order:
            try:
                made = self._call(prompts[way](), sample, templated=way in (0, 1))
                self._refuse_lost(made, sample)
            except (*FAILURES, TemplateError, ProcessorError) as error:
                refused = refused or error
                continue
            self._ways[kind] = way
            return made
        raise ProcessorError(f"{self.name} refuses it: {' '.join(str(refused).split())[:300]}", "Mend the row.")

    def _prompts(self, sample: Sample) -> "Iterator[Any]":
        """Ways to word a sample, each a function that returns the prompt, or None for no text."""
        if "text" not in self.reads or "text" not in self.expected.modalities:
            yield from (_nothing, _nothing, lambda: None)
            return
        paired = "text" in self.required and len(self.required) > 1  # such as CLIP: the words belong to the picture
        apart = paired or self.expected.generates  # a decoder of its own gets the answer
        answer = "" if apart else sample.answer
        words = " ".join(filter(None, (sample.text or (sample.answer if apart else ""), answer)))
        marks = "".join(self._mark(modality) * count for modality, count in sample.media.items())
        typed = [{"type": m} for m, count in sample.media.items() for _ in range(count)]
        said = [{"type": "text", "text": sample.text}] if sample.text else []
        led = "\n".join(filter(None, (marks, sample.text)))
        yield lambda: self._conversation([*typed, *said], [{"type": "text", "text": answer}] if answer else None)
        yield lambda: self._conversation(led, answer or None)
        yield lambda: words or ("" if marks else None)
        yield lambda: marks + words

    def _conversation(self, content: Any, answer: Any) -> str:
        turns = [{"role": "user", "content": content}]
        if answer:
            turns.append({"role": "assistant", "content": answer})
        holder = self.processor if getattr(self.processor, "chat_template", None) else self.parts["text"]
        prompt = holder.apply_chat_template(turns, tokenize=False, add_generation_prompt=not answer)
        if "{'type':" in prompt:  # a template for plain strings has printed the list of parts
            raise ValueError("the chat template takes plain strings")
        return str(prompt)

    def _mark(self, modality: str) -> str:
        """What stands for a medium in bare text."""
        tokenizer = self.parts["text"]
        for holder in (self.processor, tokenizer):
            mark = getattr(holder, "boi_token" if modality == "image" else "", None)
            mark = mark or getattr(holder, f"{modality}_token", None)
            if mark is not None:
                return str(getattr(mark, "content", mark))
        placeholder = self.expected.placeholders.get(modality)
        return str(tokenizer.convert_ids_to_tokens(placeholder)) if placeholder is not None else ""

    def _call(self, prompt: str | None, sample: Sample, *, templated: bool) -> dict[str, Tensor]:
        """The processor's tensors that forward takes, and all that carry a modality, whether it takes them or not."""
        given: dict[str, Any] = {}
        if prompt is not None:
            given["text"] = [prompt]
            if templated and (bos := self.parts["text"].bos_token) and prompt.startswith(bos):
                given["add_special_tokens"] = False
        if "image" in self.reads and sample.images:
            given["images"] = [Image.fromarray(image) for image in sample.images]
        if "video" in self.reads and sample.clips:
            given["videos"] = list(sample.clips)
        if "audio" in self.reads and sample.sounds:
            given |= {"audio": list(sample.sounds), "sampling_rate": self.sampling_rate}
        made = dict(self.processor(**given, return_tensors="pt")) if given.keys() - {"add_special_tokens"} else {}
        takes = self.expected.takes
        kept = {k: v for k, v in made.items() if isinstance(v, Tensor) and (takes is None or k in takes or carried(k))}
        kept.pop("labels", None)  # they would only add a loss
        if self.expected.generates:
            kept["decoder_input_ids"] = self._decoder_ids(sample)
        return kept

    def _decoder_ids(self, sample: Sample) -> Tensor:
        """What a decoder of its own reads while it writes the answer: its tokens, one place later."""
        words = sample.answer or ("" if "text" in self.expected.modalities else sample.text)
        ids = list(self.parts["text"](words)["input_ids"]) if words else []
        start, end = self.expected.decoder_start, self.parts["text"].eos_token_id
        ids = ids[:-1] if ids[-1:] == [end] else ids  # nothing is read after the end
        return torch.tensor([ids if ids[:1] == [start] else [start, *ids]])

    def _refuse_lost(self, made: dict[str, Tensor], sample: Sample) -> None:
        """A medium that has placeholders must be found in the language sequence."""
        for modality in sample.media:
            placeholder = self.expected.placeholders.get(modality)
            if placeholder is not None and "input_ids" in made and not bool((made["input_ids"] == placeholder).any()):
                raise ProcessorError(f"no placeholder stands for its {modality}")

    def _excess(self, batch: ModelBatch) -> int:
        """How many tokens of text are too many."""
        if batch.tokens is None:
            return 0
        ids = batch.inputs.get("input_ids", batch.inputs.get("decoder_input_ids"))
        padding = getattr(self.parts["text"], "pad_token_id", None)  # some processors fill every text up to one length
        words = int(((batch.tokens == NAMES.index("text")) & (ids != (-1 if padding is None else padding))).sum())
        longest = [self.expected.positions, getattr(self.parts["text"], "model_max_length", None)]
        positions = min((n for n in longest if n and n < ENDLESS), default=ENDLESS)
        total = max(batch.inputs[n].shape[1] for n in ("input_ids", "decoder_input_ids") if n in batch.inputs)
        return max(words - self.length if self.length else 0, total - positions)

    def _shortened(self, sample: Sample, excess: int) -> Sample:
        """The sample with so many tokens of text fewer, from the end of the text first, of the answer then."""
        text = self._head(sample.text, excess)
        left = excess - (self.count(sample.text) - self.count(text) if sample.text else 0)
        answer = self._head(sample.answer, left) if left > 0 else sample.answer
        if (text, answer) == (sample.text, sample.answer):
            raise InputError(
                f"It is {excess} tokens too long for {self.expected.architecture} without any text.",
                "Make its media smaller, or ask for a greater length.",
            )
        return replace(sample, text=text, answer=answer)

    def _head(self, text: str, cut: int) -> str:
        """A text without its last tokens; at least one of them stays."""
        if not text:
            return text
        tokenizer = self.parts["text"]
        fast = bool(getattr(tokenizer, "is_fast", False))
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast)
        kept = max(1, len(encoded["input_ids"]) - cut)
        if kept >= len(encoded["input_ids"]):
            return text
        if fast:
            return text[: encoded["offset_mapping"][kept][0]].rstrip()
        return str(tokenizer.decode(encoded["input_ids"][:kept], skip_special_tokens=True))


def _nothing() -> None:
    raise ValueError("the model reads no text")

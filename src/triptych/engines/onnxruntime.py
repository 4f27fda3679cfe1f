"""ONNX Runtime as an engine for cached generation on the CPU: runs what `export.onnx` wrote, with our codes.

Keys and values lie in buffers of the whole sequence's length that each step writes in place, and every array is bound once, so
a step passes nothing but one token.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from triptych.errors import ArtifactError, InputError


def _runtime() -> Any:
    """The onnxruntime package.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnxruntime  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise InputError("ONNX Runtime is not installed.", "pip install 'triptych[onnx]'") from error
    return onnxruntime


class OnnxDecoder:
    """A language model with its cache, in ONNX Runtime; a `generate.Decoder`.

    Args:
        path: `decoder.onnx`.
        threads: of a product; None for one a core.

    Attributes:
        length: tokens seen since `reset`.
        capacity: most that fit.
        end: tokens that end an answer.
        metadata: what `export.onnx` says of the graph: weights that are float values somewhere (`dense`), and others.

    Raises:
        ArtifactError: the file is missing, damaged, or no decoder of ours.
        InputError: ONNX Runtime is not installed.
    """

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._ort = _runtime()
        self.threads = threads
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        try:
            self.session = self._ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            inputs = {one.name: one.shape for one in self.session.get_inputs()}
            self._past = {name: shape for name, shape in inputs.items() if name.startswith("past.")}
            self.metadata: dict[str, str] = dict(self.session.get_modelmeta().custom_metadata_map)
            self.width, self.context = int(inputs["inputs_embeds"][2]), int(self.metadata["context"])
            self.end = tuple(int(token) for token in self.metadata["end"].split())
            self.vocabulary = int(self.session.get_outputs()[0].shape[2])
        except Exception as error:  # the package raises types of its own, private ones among them
            raise ArtifactError(
                f"{path} is not a decoder that can be run: {error}", "Export the model again."
            ) from error
        self.length = self.capacity = 0

    def reset(self, capacity: int) -> None:
        """Forgets what was seen and makes room for `capacity` tokens.

        Raises:
            InputError: the model was exported for shorter sequences.
        """
        if capacity > self.context:
            raise InputError(
                f"A sequence of {capacity} tokens is longer than the {self.context} that the model was exported for.",
                "Ask for fewer tokens, or export it with a longer context.",
            )
        self.length = 0
        if capacity <= self.capacity:
            return
        self.capacity = capacity
        self._logits = np.empty((1, 1, self.vocabulary), np.float32)
        self._total = np.zeros((), np.int32)
        self._caches = {
            name: self._value(np.zeros((1, shape[1], capacity, shape[3]), np.float32))
            for name, shape in self._past.items()
        }
        self._one = np.zeros((1, 1), np.int64)
        self._step = self._bound(self._one, np.zeros((1, 1, self.width), np.float32))

    def __call__(
        self, ids: Int[np.ndarray, " tokens"], embeds: Float[np.ndarray, "tokens width"] | None = None
    ) -> Float[np.ndarray, " vocabulary"]:
        """Reads tokens after those seen before; the logits of what comes next, valid until the next call.

        Args:
            ids: tokens; -1 takes the vector from `embeds` at its place.
            embeds: vectors of the embedding's width.

        Raises:
            InputError: no room is left, or an id is not of the vocabulary.
        """
        count = len(ids)
        if not 0 < count <= self.capacity - self.length:
            raise InputError(
                f"{count} tokens do not fit after {self.length} where there is room for {self.capacity}.",
                "Reset the decoder with a larger capacity.",
            )
        if ids.min() < (-1 if embeds is not None else 0) or ids.max() >= self.vocabulary:
            raise InputError(f"Ids between {ids.min()} and {ids.max()} are not of a vocabulary of {self.vocabulary}.")
        self.length += count
        self._total[...] = self.length
        if count == 1 and embeds is None:
            self._one[0, 0] = ids[0]
            self.session.run_with_iobinding(self._step)
        else:
            vectors = np.zeros((1, count, self.width), np.float32)
            if embeds is not None:
                vectors[0] = embeds
            self.session.run_with_iobinding(self._bound(ids[None].astype(np.int64), vectors))
        return self._logits[0, 0]

    def _value(self, array: np.ndarray) -> Any:
        """The runtime's view of an array, which stays the owner of its memory."""
        return self._ort.OrtValue.ortvalue_from_numpy(array)

    def _bound(self, ids: Int[np.ndarray, "1 tokens"], vectors: Float[np.ndarray, "1 tokens width"]) -> Any:
        binding = self.session.io_binding()
        for name, array in (("input_ids", ids), ("inputs_embeds", vectors), ("total", self._total)):
            binding.bind_ortvalue_input(name, self._value(array))
        binding.bind_ortvalue_output("logits", self._value(self._logits))
        for name, value in self._caches.items():  # one buffer is read and written: the operator appends in place
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(name.replace("past", "present", 1), value)
        return binding

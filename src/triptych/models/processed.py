"""Inputs made by the processor that lies beside a model, from a picture and a second of noise and a few words."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image

from triptych.errors import InputError

_READERS = ("AutoProcessor", "AutoImageProcessor", "AutoFeatureExtractor", "AutoTokenizer")
_SIDE = 64  # pixels
_RATE = 16000  # samples a second, where the processor names no rate


def processed_inputs(folder: Path, rows: int, seed: int) -> dict[str, Any]:
    """Tensors by input name, for all that the folder's processor reads; code that comes with a model is never run.

    Raises:
        InputError: the folder has no processor that loads, or it refuses a plain picture, sound and sentence.
    """
    processor = _load(folder)
    reads = inspect.signature(processor.__call__).parameters
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {"return_tensors": "pt"}
    kinds = []
    if "images" in reads:
        values["images"] = [
            Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)) for _ in range(rows)
        ]
        kinds.append("image")
    sound = next((name for name in ("audio", "audios", "raw_speech") if name in reads), None)
    if sound:
        rate = getattr(getattr(processor, "feature_extractor", processor), "sampling_rate", _RATE)
        values[sound] = [rng.standard_normal(rate).astype(np.float32) for _ in range(rows)]
        values["sampling_rate"] = rate
        kinds.append("audio")
    if "text" in reads:
        values |= {"text": [_sentence(processor, kinds)] * rows, "padding": True}
    try:
        return dict(processor(**values))
    except Exception as error:
        raise InputError(
            f"The processor in {folder} ({type(processor).__name__}) refused a picture, sound or sentence made up for it ({error}).",
            "Give real rows.",
        ) from error


def _load(folder: Path) -> Any:
    reasons = []
    for reader in _READERS:
        try:
            return getattr(transformers, reader).from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # noqa: BLE001 - each reader fails in its own way on a folder that is not its
            reasons.append(f"{reader}: {str(error).splitlines()[0][:100]}")
    raise InputError(
        f"{folder} has no processor that loads ({'; '.join(reasons)}).", "Copy the model's processor files into it."
    )


def _sentence(processor: Any, kinds: list[str]) -> str:
    """Words with what stands for each medium, by the chat template where there is one."""
    words = "What is this?"
    if getattr(processor, "chat_template", None):
        content = [*({"type": kind} for kind in kinds), {"type": "text", "text": words}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))
    placeholders = [getattr(processor, f"{kind}_token", None) for kind in kinds]
    return " ".join([*(str(token) for token in placeholders if token), words])

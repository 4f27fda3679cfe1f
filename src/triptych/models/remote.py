"""Models whose folder brings its own code. It runs only where a person has typed that it may."""

import json
from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from triptych.errors import InputError
from triptych.models.tensors import read_index


def read_remote(path: Path) -> PreTrainedModel | None:
    """The model of a folder that brings code, whole and in float32; None where the folder brings none.

    Raises:
        ArtifactError: the weights are damaged, or stored as a pickle.
        InputError: the folder's code names no model class, or fails.
    """
    try:
        said = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # told by whoever reads the folder next
    mapped = said.get("auto_map") if isinstance(said, dict) else None
    if not mapped:
        return None
    wanted = (said.get("architectures") or [""])[0]
    classes = {auto: ref for auto, ref in mapped.items() if auto.startswith("AutoModel") and isinstance(ref, str)}
    named = [ref for ref in classes.values() if ref.rpartition(".")[2] == wanted] or list(classes.values())
    if not named:
        raise InputError(
            f"{path / 'config.json'} names no model class under auto_map ({', '.join(mapped)}).",
            "Add the entry AutoModel: file.Class.",
        )
    read_index(path)  # refuses pickles and damaged files before any of the folder's code runs
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=True)
        cls = get_class_from_dynamic_module(named[0], str(path), local_files_only=True)
        model = cls.from_pretrained(
            path, config=config, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
    except Exception as error:
        raise InputError(
            f"The code in {path} failed: {error!r}.", "It may want another version of transformers."
        ) from error
    return model.eval().requires_grad_(False)

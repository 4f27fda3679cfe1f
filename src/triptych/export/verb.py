"""`triptych export`: which exporter a model is for, and the folder around what it writes."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import GenerationConfig

from triptych import artifact, console
from triptych.compress.calibrate import calibration
from triptych.data.samples import Samples
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError, NumericsError
from triptych.export import openvino
from triptych.export.folder import CONFIG, copy_others
from triptych.models.folder import fingerprint, is_ours, load, open_folder
from triptych.models.store import Loaded, read_model
from triptych.models.summary import example_inputs

FORMATS = ("openvino", "onnx")
GENERATION = "generation_config.json"
ROWS = 64
DRAWN = 8  # rows, of which the one with the most modalities shows what its pictures are like
AGREE = 0.05  # of the outputs' spread; integer kernels round in another order than the reference


def export_model(model: Path, to: str, out: Path, data: Path | None = None) -> None:
    """Write a model folder for another runtime, with its processor beside it.

    Args:
        model: a folder that `triptych train` or `triptych compress` made; for "onnx" any folder of a language model that
            transformers saved or `triptych compress` rounded.
        to: "openvino" for models that were built here, "onnx" for the cached generation of language models.
        out: the folder to publish.
        data: rows on which an OpenVINO model is compared with the original; without them, noise of the right shapes. For
            "onnx" rows with pictures, whose encoder is then written beside the decoder, for pictures of that shape. Decoders
            are compared on random tokens.

    Raises:
        InputError: an unknown format, or one that is not for this model.
        NumericsError: the exported model answers otherwise than the original; nothing is published.
    """
    if to not in FORMATS:
        raise InputError(f"There is no export to {to!r}.", f"Choose one of: {', '.join(FORMATS)}.")
    built_here = is_ours(model)
    if to == "onnx" and built_here:
        raise InputError(f"{model} makes no words one by one, which the ONNX decoder is for.", "Use --to openvino.")
    if to == "openvino" and (model / "config.json").exists() and not built_here:
        raise InputError(f"{model} was not built here.", "Where it is a language model, use --to onnx.")
    if to == "onnx":
        _export_decoder(model, out, data)
    else:
        _export_graph(model, out, data)


def _export_decoder(model: Path, out: Path, data: Path | None) -> None:
    """The language model of a Hugging Face folder, with the folder's codes where it has some; with rows its picture encoder."""
    from triptych.export import onnx, pictures  # onnxruntime is an extra

    folder = open_folder(model, rounded=True)
    rows = calibration(model, data, rows=DRAWN) if data else None
    identity: dict[str, artifact.JSON] = {
        "kind": "onnx",
        "model": fingerprint(folder),
        "data": rows.sha256 if rows else None,
    }
    if artifact.existing(out, identity):
        console.say(f"{out} is complete; nothing to do")
        return
    with console.stage("read the model"):
        whole, codes = load(folder)
    if (model / GENERATION).exists():
        whole.generation_config = GenerationConfig.from_pretrained(model)
    with console.stage("trace, fuse and compare"), artifact.publish(out, identity) as staging:
        onnx.export(whole, codes, staging)
        if rows:
            richest = max(rows.batches, key=lambda batch: len(set(batch.modality.values())))
            pictures.export(whole, richest.inputs, codes, staging)
        left_out = list(copy_others(model, staging))
        config = json.loads((model / CONFIG).read_text(encoding="utf-8"))
        config.pop("quantization_config", None)  # its codes lie in the graph now
        (staging / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.say(f"compared on random tokens; left out: {', '.join(left_out) or 'nothing'}")


def _export_graph(model: Path, out: Path, data: Path | None) -> None:
    """A model that was built here, as one OpenVINO graph."""
    loaded = read_model(model)
    if artifact.existing(out, {"kind": "openvino", "model": loaded.sha256}):
        console.say(f"{out} is complete; nothing to do")
        return
    inputs, presence = _rows(loaded, data)
    with artifact.publish(out, {"kind": "openvino", "model": loaded.sha256}) as staging:
        path = openvino.export(loaded.model, (inputs, presence), loaded.quantized, staging)
        loaded.processor.save(staging)
        expected = TorchEngine(loaded.model)(inputs, presence)
        difference = np.abs(OpenVINOEngine.read(path)(inputs, presence) - expected).max() / max(
            float(expected.std()), 1e-12
        )
        if not difference <= AGREE:
            raise NumericsError(
                f"The exported model's answers differ by {difference:.1%} of their spread from those of {model}.",
                "Nothing was published; keep the model in its own folder and report the plan it was made with.",
            )
    console.say(
        f"compared on {len(presence)} {'rows' if data else 'made-up rows'}: at most {difference:.2%} of the spread apart"
    )


def _rows(loaded: Loaded, data: Path | None) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    if data is not None:
        splits = loaded.splits(data)
        samples = Samples(splits.table("test"), loaded.processor, splits.schema)
        batch = samples.batch(range(min(ROWS, len(samples))))
        return batch.inputs, batch.presence
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for name, x in example_inputs(loaded.model, batch=ROWS).items()
    }
    return inputs, torch.ones(ROWS, len(inputs), dtype=torch.bool)

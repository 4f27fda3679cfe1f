"""Writing models for other runtimes. Every export is compared with the model it came from before it is published."""

from pathlib import Path

import numpy as np
import torch

from triptych import artifact, console
from triptych.data.samples import Samples
from triptych.data.splits import read_splits
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.errors import InputError, NumericsError
from triptych.export import openvino
from triptych.models.store import Loaded, read_model
from triptych.models.summary import example_inputs

FORMATS = ("openvino",)
ROWS = 64
AGREE = 0.05  # of the outputs' spread; integer kernels round in another order than the reference


def export_model(model: Path, to: str, out: Path, data: Path | None = None) -> None:
    """Write a model folder for another runtime, with the processor beside it.

    Args:
        model: a folder that `triptych train` or `triptych compress` made.
        to: the format.
        out: the folder to publish.
        data: rows on which the two are compared; without them, noise of the right shapes.

    Raises:
        InputError: an unknown format.
        NumericsError: the exported model answers otherwise than the original; nothing is published.
    """
    if to not in FORMATS:
        raise InputError(f"There is no export to {to!r}.", f"Choose one of: {', '.join(FORMATS)}.")
    loaded = read_model(model)
    if artifact.existing(out, {"kind": to, "model": loaded.sha256}):
        console.say(f"{out} is complete; nothing to do")
        return
    inputs, presence = _rows(loaded, data)
    with artifact.publish(out, {"kind": to, "model": loaded.sha256}) as staging:
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
        splits = read_splits(data)
        samples = Samples(splits.table("test"), loaded.processor, splits.schema)
        batch = samples.batch(range(min(ROWS, len(samples))))
        return batch.inputs, batch.presence
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(x.shape, generator=generator) if x.is_floating_point() else x
        for name, x in example_inputs(loaded.model, batch=ROWS).items()
    }
    return inputs, torch.ones(ROWS, len(inputs), dtype=torch.bool)

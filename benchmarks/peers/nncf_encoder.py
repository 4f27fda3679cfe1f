"""NNCF's side of `benchmarks.vision_tower`, in an environment of its own: an image classifier with eight-bit weights and inputs.

    python nncf_encoder.py FOLDER IMAGES.npy OUT.xml

NNCF's post-training quantization as its guide has it for transformers: SmoothQuant, the extremes of each input as its range.
The graph's input and output bear the names that ours have, so that one program runs both.
"""

import sys
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
import openvino.opset13 as op
import torch
from torch import Tensor, nn
from transformers import AutoModelForImageClassification


class Logits(nn.Module):
    """The classifier with one tensor in and one out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        return self.model(pixel_values=image).logits


def main() -> None:
    """Round and write."""
    folder, pixels, out = (Path(argument) for argument in sys.argv[1:])
    images = torch.from_numpy(np.load(pixels))
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    graph = ov.convert_model(Logits(model), example_input=images[:1])
    graph.reshape([1, *images.shape[1:]])
    made = nncf.quantize(
        graph,
        nncf.Dataset([image[None].numpy() for image in images]),
        subset_size=len(images),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER,
    )
    made.inputs[0].get_node().set_friendly_name("image")
    presence = op.parameter([1, 1], ov.Type.boolean, name="presence")  # every image is there
    made.add_parameters([presence])
    ov.save_model(made, out, compress_to_fp16=False)


if __name__ == "__main__":
    main()

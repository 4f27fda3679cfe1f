"""Vision transformers with eight-bit weights and inputs on this CPU, one image at a time, random weights.

ViT-B/32 at 224 px against NNCF's own eight bits, and the tower of SmolVLM-256M at 512 px. Engines take turns in one process:
PyTorch and OpenVINO in float32, OpenVINO with our codes, and the graph that NNCF wrote, by the same OpenVINO.

    python -m benchmarks.vision_tower [--rounds 15] [--threads 2]
"""

import argparse
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForImageClassification
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionConfig, Idefics3VisionTransformer

from benchmarks import geometry, record
from benchmarks.peers import environments
from triptych.compress.quantize import layers, migrate, moments
from triptych.compress.quantize.grid import Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.compress.quantize.rounding import quantize_weight
from triptych.engines import Engine, Example
from triptych.engines.openvino import OpenVINOEngine
from triptych.engines.torch import TorchEngine
from triptych.evaluate.speed import interleaved

WORK = Path(__file__).parents[1] / "runs" / "vision_tower"
W8A8 = LayerScheme(weight=Grid(bits=8), activation=8, method="rtn")
CALIBRATION = 8  # images


class Encoder(nn.Module):
    """A vision model called as engines call a model."""

    def __init__(self, model: nn.Module, answer: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.model, self.answer = model, answer

    def forward(self, inputs: dict[str, Tensor], presence: Tensor) -> Float[Tensor, "batch values"]:  # noqa: ARG002
        """What the model makes of the images."""
        return self.answer(self.model(pixel_values=inputs["image"]))


def vit_b32() -> Encoder:
    """ViT-B/32 with 1,000 classes."""
    folder = geometry.vit_b32(WORK / "vit_b32")
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)
    return Encoder(model.eval(), lambda output: output.logits)


def smolvlm() -> Encoder:
    """The vision tower of SmolVLM-256M, all patches side by side."""
    torch.manual_seed(0)
    config = Idefics3VisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=512,
        patch_size=16,
    )
    return Encoder(Idefics3VisionTransformer(config).eval(), lambda output: output.last_hidden_state.flatten(1))


def images(count: int, size: int, seed: int = 0) -> Example:
    """Noise."""
    pixels = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return {"image": pixels}, torch.ones(count, 1, dtype=torch.bool)


def migrate_outliers(model: nn.Module, batch: Example) -> None:
    """Moves the outliers of every norm's output into the weights of the layers that read it, as SmoothQuant does."""
    norms: dict[int, tuple[nn.Module, Tensor]] = {}
    readers: defaultdict[nn.Module, list[nn.Linear]] = defaultdict(list)

    def made(module: nn.Module, _: Any, output: Tensor) -> None:
        norms[id(output)] = module, output

    def read(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if id(inputs[0]) in norms:
            readers[norms[id(inputs[0])][0]].append(module)  # type: ignore[arg-type] # hooked on nn.Linear alone

    hooks = [m.register_forward_hook(made) for m in model.modules() if isinstance(m, nn.LayerNorm)]
    hooks += [m.register_forward_pre_hook(read) for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        model(*batch)
    for hook in hooks:
        hook.remove()
    largest = {module: output.flatten(0, -2).abs().amax(0) for module, output in norms.values()}
    for norm, linears in readers.items():
        migrate.fold(norm, linears, migrate.smoothquant_scales([m.weight for m in linears], largest[norm]))


def rounded(model: nn.Module, batch: Example) -> dict[str, QuantizedWeight]:
    """Eight-bit codes of all matrices and convolutions, with the extremes of each input as its range, as NNCF has them."""
    found = moments.collect(model, [batch])
    return {
        name: quantize_weight(view, W8A8, found[name], search="minmax")
        for name, view in layers.weights(model).items()
        if view.kind in ("linear", "convolution") and name in found
    }


def nncf_engine(batch: Example, threads: int) -> OpenVINOEngine:
    """ViT-B/32 as NNCF rounds it in an environment of its own, with the same images."""
    path, pixels = WORK / "nncf.xml", WORK / "images.npy"
    if not path.exists():
        np.save(pixels, batch[0]["image"].numpy())
        script = Path(__file__).parent / "peers" / "nncf_encoder.py"
        command = [environments.make("nncf"), script, WORK / "vit_b32", pixels, path]
        subprocess.run([str(part) for part in command], check=True)
    return OpenVINOEngine.read(path, threads)


def measure(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds an image, speed-ups over the first engine, and how far outputs are from PyTorch's, in their spread."""
    model, size = (vit_b32(), 224) if name == "vit_b32" else (smolvlm(), 512)
    batch, image = images(CALIBRATION, size), images(1, size, seed=1)
    reference = TorchEngine(model, threads=threads)
    expected = reference(*image)
    engines: dict[str, Engine] = {"nncf_w8a8": nncf_engine(batch, threads)} if name == "vit_b32" else {}
    engines["openvino_float"] = OpenVINOEngine(model, images(2, size), None, threads)
    migrate_outliers(model, batch)  # leaves the function as it was
    engines["openvino_w8a8"] = OpenVINOEngine(model, images(2, size), rounded(model, batch), threads)
    engines["torch_float"] = reference
    calls = {engine: partial(made, *image) for engine, made in engines.items()}
    taken = interleaved(calls, repeats=rounds, warmup=1, block=2, settle=1)
    return {
        "latency_ms": {engine: latency.model_dump() for engine, latency in taken.latency.items()},
        "speedup_over_first": {engine: ratio.model_dump() for engine, ratio in taken.speedup.items()},
        "error": {
            engine: float(((made() - expected) ** 2).mean() ** 0.5 / expected.std()) for engine, made in calls.items()
        },
    }


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    found = {
        "vit_b32": measure("vit_b32", asked.threads, asked.rounds),
        "smolvlm": measure("smolvlm", asked.threads, max(1, asked.rounds // 5)),  # an image takes ten times as long
    }
    record.write("vision_tower", {"models": found})
    for model, row in found.items():
        for name, latency in row["latency_ms"].items():
            error = row["error"][name]
            print(f"{model}, {name}: {latency['p50_ms']:.1f} ms, outputs {error:.2%} of their spread apart")


if __name__ == "__main__":
    main()

"""YAMNet in the form of transformers: MobileNetV1 on log-mel patches, written once from a copy of its weights.

    python -m benchmarks.yamnet

The copy names each convolution by its layer, and batch norms are folded into it; MobileNetV1 has them beside it, and here they add
the bias and change nothing else. YAMNet reads patches with time first; kernels are turned round, so that these have mels first.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

EPSILON = 1e-3


def write(source: Path, folder: Path) -> Path:
    """The folder that `AutoModel.from_pretrained` reads, made of `source/model.safetensors`."""
    from transformers import MobileNetV1Config, MobileNetV1Model

    config = MobileNetV1Config(num_channels=1, tf_padding=True, hidden_act="relu", layer_norm_eps=EPSILON)
    model = MobileNetV1Model(config)
    held = load_file(source / "model.safetensors")
    layers = [f"layer{number}.{part}" for number in range(2, 15) for part in ("depthwise_conv", "pointwise_conv")]
    names = dict(zip(("layer1.conv", *layers), ("conv_stem", *(f"layer.{place}" for place in range(26))), strict=True))
    model.load_state_dict({key: value for old, new in names.items() for key, value in _layer(held, old, new).items()})
    model.save_pretrained(folder)
    return folder


def _layer(held: dict[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    """A convolution, and a batch norm that only adds its bias."""
    bias = held[f"{old}.bias"].float()
    norm = {"weight": torch.ones_like(bias), "bias": bias, "running_mean": torch.zeros_like(bias)}
    norm["running_var"] = torch.full_like(bias, 1 - EPSILON)
    norm["num_batches_tracked"] = torch.tensor(0)
    kernel = held[f"{old}.weight"].float().transpose(2, 3).contiguous()
    return {f"{new}.convolution.weight": kernel, **{f"{new}.normalization.{name}": one for name, one in norm.items()}}


if __name__ == "__main__":
    from benchmarks.packs import backbone

    print(backbone("runs/backbones/yamnet"))

"""Trains what is not trained yet, and writes what the models reach: task, need of each modality, and how fragile they are.

The fragility is that of plain rounding to the nearest of 2^b levels, groups of 64 weights, in every linear layer: where
it does nothing, or wrecks everything, methods cannot be told apart.
"""

import copy
import json
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import record
from benchmarks.fidelity import cases, vlm

BITS = (4, 3, 2)
GROUP = 64
SHUFFLED = {"vlm": "pixel_values", "whisper": "input_features"}  # retrieval without its photos is chance


@torch.no_grad()
def rounded(model: nn.Module, bits: int) -> nn.Module:
    """A copy with the weights of its linear layers rounded: minimum and maximum of a group are levels."""
    changed = copy.deepcopy(model)
    for layer in changed.modules():
        if isinstance(layer, nn.Linear):
            groups = layer.weight.unflatten(1, (-1, GROUP))
            low, high = groups.aminmax(dim=-1, keepdim=True)
            step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
            layer.weight.copy_((((groups - low) / step).round() * step + low).flatten(1))
    return changed


def without(name: str, model: nn.Module) -> dict[str, float]:
    """The score when each row is given another row's image or sound."""
    field = SHUFFLED[name]

    def misled(**batch: Tensor) -> Any:
        return model(**{**batch, field: batch[field].roll(1, 0)})

    found = cases.answers(name, misled)
    right = torch.tensor(cases.test(name)[1]) if name == "vlm" else found["right"]
    return {"token_accuracy": float((found["scores"].argmax(-1) == right).double().mean())}


def measured(name: str) -> dict[str, Any]:
    folder, model = cases.folder(name), cases.load(name)
    cases.test(name)
    began = time.monotonic()
    found: dict[str, Any] = {"score": cases.score(name, model)}
    found["seconds_to_score"] = time.monotonic() - began
    found["parameters"] = sum(p.numel() for p in model.parameters())
    found["bytes"] = (folder / "model.safetensors").stat().st_size
    found["training"] = json.loads((folder / "training.json").read_text())
    if name in SHUFFLED:
        found["shuffled"] = without(name, model)
    if name == "vlm":
        found["text_only_accuracy"] = vlm.text_only()
    found["rounded"] = {f"{bits} bits": cases.score(name, rounded(model, bits)) for bits in BITS}
    copied = cases.with_outliers(name)
    found["with_outliers"] = {
        "unchanged": cases.score(name, copied),
        **{f"{bits} bits": cases.score(name, rounded(copied, bits)) for bits in (4, 3)},
    }
    return found


def main() -> None:
    """Measure the models named, or all; what is measured for the same training stays."""
    rows: dict[str, Any] = record.read("fidelity_models").get("models", {})
    for name in sys.argv[1:] or cases.NAMES:
        training = json.loads((cases.folder(name) / "training.json").read_text())
        if rows.get(name, {}).get("training") != training:
            rows[name] = measured(name)
            record.write("fidelity_models", {"group": GROUP, "models": rows})
        print(name, json.dumps(rows[name], indent=1), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

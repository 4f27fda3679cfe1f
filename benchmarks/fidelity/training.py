"""One plain training loop, and where its models lie. What is finished is not done again."""

import json
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FOLDER = Path("runs/fidelity")
WARM_UP = 0.1  # of the steps


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024), its step scaled to AdamW's (Liu et al. 2025), in float32.

    torch.optim.Muon works in bfloat16, in which a processor without bfloat16 products is seven times slower.
    """

    def __init__(self, matrices: Iterable[Tensor], rate: float, decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": rate, "decay": decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # noqa: ARG002
        for group in self.param_groups:
            for weight in group["params"]:
                average = self.state[weight].setdefault("average", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(average, group["momentum"]))
                weight.mul_(1 - group["lr"] * group["decay"])
                weight.sub_(update, alpha=group["lr"] * 0.2 * max(weight.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """Nearly U V' of the matrix's U S V', by five Newton-Schulz iterations."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix) / matrix.norm().clamp(min=1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x, beta=3.4445)
    return x.T if tall else x


def fit(
    model: nn.Module, loss: Callable[[int], Tensor], *, steps: int, rate: float = 5e-3, decay: float = 0.05
) -> dict[str, Any]:
    """Muon for the matrices inside, AdamW at a fifth of its rate for all else; `loss` makes the loss of one step.

    The rate rises over a tenth of the steps and falls linearly to zero.
    """
    looked_up = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()}
    matrices = [p for p in model.parameters() if p.ndim == 2 and id(p) not in looked_up]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    optimizers = [Muon(matrices, rate, decay), torch.optim.AdamW(others, rate / 5, betas=(0.9, 0.98), weight_decay=0.0)]
    peaks = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    began, recent = time.monotonic(), 0.0
    model.train()
    for step in range(steps):
        done = (step + 1) / steps
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
        value = loss(step)
        model.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        recent = value.item() if step == 0 else 0.96 * recent + 0.04 * value.item()
        if step % 25 == 24:
            print(f"step {step + 1} of {steps}: loss {recent:.4f}, {time.monotonic() - began:.0f} s", flush=True)
    model.eval()
    return {"steps": steps, "rate": rate, "decay": decay, "loss": recent, "seconds": time.monotonic() - began}


def publish(name: str, save: Callable[[Path], None], facts: dict[str, Any]) -> Path:
    """Save a trained model beside its place, then move it there whole, with the facts of its training."""
    folder, stage = FOLDER / name, FOLDER / f".{name}"
    shutil.rmtree(stage, ignore_errors=True)
    save(stage)
    (stage / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    stage.rename(folder)
    return folder


def finished(name: str) -> Path | None:
    """The folder of a model that is trained already."""
    folder = FOLDER / name
    return folder if (folder / "training.json").exists() else None

"""The optimisers of a training run: one for everything, or Muon for the weight matrices and AdamW for the rest.

Muon in words: the momentum of a matrix's gradient is brought to equal singular values (Newton-Schulz iterations) before it is
applied. A direction in which the gradient is small is then learned as fast as one in which it is large. That is what a fused model
waits for: two classes that every encoder still merges get almost no gradient through the products of their vectors.

Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024; with the step scaled to the size of Adam's
as in Liu et al., Muon is Scalable for LLM Training, 2025, section 2.2.
"""

from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Muon, Optimizer

from triptych.train.settings import OptimizerSettings


def make_optimizers(model: nn.Module, settings: OptimizerSettings) -> list[Optimizer]:
    """The optimisers over all trainable parameters, each group with its peak rate as `initial_lr`; weights alone are decayed."""
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    weights = {name: p for name, p in trainable.items() if p.ndim > 1 and "weight" in name.rpartition(".")[2]}
    optimizers: list[Optimizer] = []
    if settings.name == "muon":
        looked_up = {
            id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()
        }
        matrices = {name: p for name, p in weights.items() if p.ndim == 2 and id(p) not in looked_up}
        if matrices:
            optimizers.append(_muon(list(matrices.values()), settings))
        trainable = {name: p for name, p in trainable.items() if name not in matrices}
    groups = [
        {"params": [p for name, p in trainable.items() if name in weights], "weight_decay": settings.weight_decay},
        {"params": [p for name, p in trainable.items() if name not in weights], "weight_decay": 0.0},
    ]
    if trainable:
        optimizers.append(_single(groups, settings))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return optimizers


def _muon(matrices: list[nn.Parameter], settings: OptimizerSettings) -> Optimizer:
    rate, decay = settings.matrix_lr, settings.weight_decay
    return Muon(matrices, lr=rate, weight_decay=decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")


def _single(groups: list[dict[str, Any]], settings: OptimizerSettings) -> Optimizer:
    if settings.name == "sgd":
        return SGD(groups, lr=settings.lr, momentum=settings.momentum)
    kind = Adam if settings.name == "adam" else AdamW
    return kind(groups, lr=settings.lr, betas=settings.betas, fused=True)  # one kernel instead of ten passes a tensor

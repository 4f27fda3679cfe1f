"""AutoRound: signed gradient descent on rounding and clipping, block by block; symmetric, in groups.

Of a whole model it leaves the layers out that stand in no stack of blocks (connectors, projections): these are rounded to
the nearest by its own function, with its own search of scales.
"""

import torch
from auto_round import AutoRound
from auto_round.algorithms.quantization.sign_round.config import SignRoundConfig
from auto_round.data_type.int import quant_tensor_opt_rtn_sym
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from benchmarks.peers.harness import Batch, Compressed, Job, Reader, price, run


def compress(job: Job, model: nn.Module, names: list[str], batches: list[Batch]) -> Reader:
    chosen = set(names)
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    whole = job.modules != "decoder"
    several = whole or any(hasattr(model.config, name) for name in ("vision_config", "audio_config"))
    compressor = AutoRound(
        model,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel())),  # demanded, never used
        **({"processor": ProcessorMixin()} if several else {}),  # likewise
        **({"to_quant_block_names": stacks(model, chosen, batches[0])} if whole else {}),
        scheme="W4A16",
        bits=job.bits,
        group_size=job.group or -1,
        sym=True,
        alg_configs=SignRoundConfig(iters=job.steps),
        dataset=batches,
        nsamples=sum(next(iter(batch.values())).shape[0] for batch in batches),
        seqlen=min((batch["input_ids"].shape[1] for batch in batches if "input_ids" in batch), default=1),
        device_map="cpu",
        enable_torch_compile=False,
        seed=job.seed,
        layer_config={name: {"bits": 16, "data_type": "float"} for name in linear - chosen},
        quant_nontext_module=whole,
    )
    compressor.quantize()
    return lambda: read(job, model, names)


def stacks(model: nn.Module, chosen: set[str], example: Batch) -> list[list[str]]:
    """The stacks of blocks in the order in which a forward pass comes to them, which is not that of their names."""
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    met: list[str] = []
    hooks = [
        module[0].register_forward_pre_hook(lambda *_, name=name: met.append(name)) for name, module in lists.items()
    ]
    with torch.no_grad():
        model(**example)
    for hook in hooks:
        hook.remove()
    inside = [name for name in met if any(layer.startswith(f"{name}.") for layer in chosen)]
    return [[f"{name}.{n}" for n in range(len(lists[name]))] for name in inside]


def read(job: Job, model: nn.Module, names: list[str]) -> Compressed:
    """Its layers hold the rounded weights themselves.

    Raises:
        ValueError: It left a layer of the decoder's blocks out.
    """
    layers = {name: model.get_submodule(name) for name in names}
    dense = [name for name, layer in layers.items() if getattr(layer, "scale", None) is None]
    if dense and job.modules == "decoder":
        raise ValueError(f"left dense: {', '.join(dense[:5])}, {len(dense)} of {len(names)}")
    weights = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    for name in dense:
        weight = layers[name].weight.detach()
        weights[f"{name}.weight"] = quant_tensor_opt_rtn_sym(weight, job.bits, job.group or -1)[0]
    return Compressed(weights, price(weights.values(), job.bits, job.group))


if __name__ == "__main__":
    run("auto_round", ("auto-round",), ("auto_round",), compress)

"""llm-compressor: GPTQ (activation order as it comes: static), AWQ and round-to-nearest; symmetric, in groups.

`gptq_whole` and `awq_whole` calibrate the whole model at once, not block after block: the way for towers that its tracer
does not enter, where the others end with "No statistics available". `awq_whole` is also told which layers read what, since
the patterns that AWQ guesses by fit one decoder and nothing else.
"""

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
from llmcompressor.pipelines.cache import IntermediatesCache
from torch import nn
from torch.utils.data import DataLoader
from transformers import ProcessorMixin

from benchmarks.peers.harness import Batch, Compressed, Job, Reader, price, run

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
READERS = {  # the layers that alone read what another puts out, by their names in a block of transformers' models
    "input_layernorm": ATTENTION,
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.up_proj": ("mlp.down_proj",),
    "layer_norm1": ATTENTION,
    "layer_norm2": ("mlp.fc1",),
    "self_attn_layer_norm": ATTENTION,
    "encoder_attn_layer_norm": ("encoder_attn.q_proj",),
    "final_layer_norm": ("fc1",),
}


def mappings(model: nn.Module, names: list[str]) -> list[AWQMapping]:
    """`READERS` of every block."""
    found = []
    for path, _ in model.named_modules():
        for norm, readers in READERS.items():
            block = path.removesuffix(f".{norm}")
            read_by = [f"{block}.{reader}" for reader in readers]
            if path.endswith(f".{norm}") and set(read_by) <= set(names):
                found.append(AWQMapping(f"re:^{path}$", [f"re:^{layer}$" for layer in read_by]))
    return found


def recipe(job: Job, model: nn.Module, names: list[str]) -> list[Modifier]:
    """The modifiers of a method, on these layers."""
    grouping = {"strategy": "group", "group_size": job.group} if job.group else {"strategy": "channel"}
    weights = QuantizationArgs(num_bits=job.bits, type="int", symmetric=True, **grouping)
    groups = {"layers": QuantizationScheme(targets=names, weights=weights)}
    if job.method.startswith("gptq"):
        return [GPTQModifier(config_groups=groups)]
    rounding = QuantizationModifier(config_groups=groups)
    if job.method == "awq_whole":
        return [AWQModifier(mappings=mappings(model, names)), rounding]
    return [AWQModifier(), rounding] if job.method == "awq" else [rounding]


def compress(job: Job, model: nn.Module, names: list[str], batches: list[Batch]) -> Reader:
    present = set(dict(model.named_parameters(remove_duplicate=False)))
    if not torch.accelerator.is_available():  # 0.14's AWQ pins memory without asking whether there is a device
        IntermediatesCache.pin_memory = lambda *_, **__: None
    for config in (model.config, *(getattr(model.config, name) for name in model.config.sub_configs)):
        config.use_cache = False  # or what is run again finds the keys of its first run
    samples = DataLoader(batches, batch_size=None)  # type: ignore[arg-type] # a list is a dataset
    oneshot(
        model=model,
        processor=ProcessorMixin(),  # the samples are tensors already, yet one is demanded
        dataset=samples,
        recipe=recipe(job, model, names),
        num_calibration_samples=len(batches),
        pipeline="basic" if job.method.endswith("whole") else "independent",
    )
    return lambda: read(job, model, names, present)


def read(job: Job, model: nn.Module, names: list[str], present: set[str]) -> Compressed:
    """The numbers the codes stand for, and every other parameter too: AWQ folds scales into the layers before."""
    weights = {name: p.detach() for name, p in model.named_parameters(remove_duplicate=False) if name in present}
    rounded = []
    for name in names:
        layer = model.get_submodule(name)
        zero = getattr(layer, "weight_zero_point", None)
        args = layer.quantization_scheme.weights
        rounded.append(fake_quantize(layer.weight, layer.weight_scale, zero, args).detach())
        weights[f"{name}.weight"] = rounded[-1]
    return Compressed(weights, price(rounded, job.bits, job.group))


if __name__ == "__main__":
    run(
        "llmcompressor",
        ("llmcompressor", "compressed-tensors"),
        ("gptq", "gptq_whole", "awq", "awq_whole", "rtn"),
        compress,
    )

"""AutoRound: signed gradient descent on rounding and clipping, block by block; symmetric, in groups."""

from auto_round import AutoRound
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from benchmarks.peers.harness import Batch, Compressed, Job, Reader, price, run


def compress(job: Job, model: nn.Module, names: list[str], batches: list[Batch]) -> Reader:
    chosen = set(names)
    linear = {name for name, module in model.named_modules() if type(module) is nn.Linear}
    several = any(hasattr(model.config, name) for name in ("vision_config", "audio_config"))
    compressor = AutoRound(
        model,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel())),  # demanded, never used
        **({"processor": ProcessorMixin()} if several else {}),  # likewise
        scheme="W4A16",
        bits=job.bits,
        group_size=job.group or -1,
        sym=True,
        iters=job.steps,
        dataset=batches,
        nsamples=sum(next(iter(batch.values())).shape[0] for batch in batches),
        seqlen=min((batch["input_ids"].shape[1] for batch in batches if "input_ids" in batch), default=1),
        device_map="cpu",
        enable_torch_compile=False,
        seed=job.seed,
        layer_config={name: {"bits": 16, "data_type": "float"} for name in linear - chosen},
        quant_nontext_module=job.modules == "all",
    )
    compressor.quantize()
    return lambda: read(job, model, names)


def read(job: Job, model: nn.Module, names: list[str]) -> Compressed:
    """Its layers hold the rounded weights themselves.

    Raises:
        ValueError: It left a layer out.
    """
    layers = {name: model.get_submodule(name) for name in names}
    if dense := [name for name, layer in layers.items() if getattr(layer, "scale", None) is None]:
        raise ValueError(f"left dense: {', '.join(dense[:5])}, {len(dense)} of {len(names)}")
    weights = {f"{name}.weight": layer.weight.detach() for name, layer in layers.items()}
    return Compressed(weights, price(weights.values(), job.bits, job.group))


if __name__ == "__main__":
    run("auto_round", ("auto-round",), ("auto_round",), compress)

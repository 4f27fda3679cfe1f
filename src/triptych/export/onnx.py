"""A causal language model as one ONNX graph for cached generation, computing with our codes: `decoder.onnx` and its data.

The model is traced by `torch.export` as it stands, whatever its family, with two things put in its place: each layer with a
rounded weight by MatMulNBits or GatherBlockQuantized, and attention, through transformers' own attention interface, by
GroupQueryAttention, which keeps keys and values in buffers that it writes in place and turns them (rotary embedding) itself.
The graph is then run against PyTorch on random tokens; one that answers otherwise is not kept.

Inputs: `input_ids` [1, tokens], where -1 takes the vector from `inputs_embeds` [1, tokens, width] at its place;
`total` [], tokens seen with these; `past.N.key|value` [1, heads, capacity, head width]. Outputs: `logits` of the last token
[1, 1, vocabulary], `present.N.key|value`, to be bound to the memory of `past`.
"""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.onnx.ops import symbolic_multi_out
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from triptych.compress.lockstep import trace
from triptych.compress.quantize.layers import QuantizedWeight
from triptych.engines.generate import cache_name
from triptych.engines.onnxruntime import OnnxDecoder
from triptych.errors import InputError, NumericsError
from triptych.export import onnx_fusions
from triptych.export.onnx_codes import DOMAIN, rounded
from triptych.export.onnx_rotary import Rotary, find_rotary, unrotated
from triptych.models.tiny_batch import ModelBatch

NAME, DATA = "decoder.onnx", "decoder.onnx.data"
INTERFACE = "triptych_export"
OPSET = 20
PROMPT, STEPS = 24, 4  # tokens of the comparison: read at once, then one by one
AGREE = 1e-3  # of the logits' spread, in float32 arithmetic
CONTEXT = 8192


def export(
    model: PreTrainedModel,
    quantized: Mapping[str, QuantizedWeight] | None,
    folder: Path,
    *,
    context: int | None = None,
    round_inputs: bool = True,
) -> Path:
    """Writes the graph; `engines.onnxruntime.OnnxDecoder` runs it.

    Args:
        model: a causal language model, or a multimodal one that makes words from `inputs_embeds`. Left as it was.
        quantized: rounded weights. Those of parts that the words do not pass, such as a vision tower, are left out; those
            that no operator reads as codes (groups that are no multiple of 16 columns, layers other than nn.Linear and
            nn.Embedding) are written as the float32 values they stand for.
        folder: made if missing.
        context: most tokens a sequence may have; by default the model's own limit, up to 8,192.
        round_inputs: rounds the inputs of products to eight bits, block by block, as llama.cpp does: about twice as fast,
            and an error that the codes alone do not have. The graph's metadata says how large it is for random tokens, as
            the root of the mean square over the logits' spread (`input_rounding`).

    Raises:
        InputError: the folder holds a decoder already; the model is of a kind that cannot be exported, or has a rounded
            input of its own.
        NumericsError: the graph does not answer as the model does. Nothing is written.
    """
    path = Path(folder) / NAME
    if path.exists():
        raise InputError(f"{path} exists already.", "Name another folder, or remove it first.")
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.callback(model.train, model.training)
        model.eval()
        dense = stack.enter_context(rounded(model, _reached(model, quantized or {})))
        ids, expected, cache = _reference(model)
        limit = int(getattr(model.config.get_text_config(), "max_position_embeddings", CONTEXT))
        context = max(context or min(limit, CONTEXT), PROMPT + STEPS)
        graph = _trace(model, cache, find_rotary(model, ids, context, [layer.keys.shape[-1] for layer in cache.layers]))
        onnx_fusions.fuse(graph)
        graph.metadata_props.update({"context": str(context), "dense": " ".join(dense), "end": _ends(model)})
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            ir.save(graph, path, external_data=DATA)  # while the weights are the rounded ones
            _compare(path, type(model).__name__, ids, expected)
            if round_inputs and quantized:
                _round_inputs(path, ids, expected)
        except BaseException:
            path.unlink(missing_ok=True)
            path.with_name(DATA).unlink(missing_ok=True)
            raise
    return path


def _reached(model: PreTrainedModel, quantized: Mapping[str, QuantizedWeight]) -> dict[str, QuantizedWeight]:
    """The rounded weights of layers that run when the model reads embeddings, and of tables."""
    names = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    try:
        embedded = model.get_input_embeddings()(torch.zeros(1, 2, dtype=torch.long))
        called = {call.name for call in trace(model, ModelBatch({"inputs_embeds": embedded}, {}, None, ()), names)}
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise _refusal(model, error) from error
    silent = {f"{name}.weight" for name in names.keys() - called}
    return {name: item for name, item in quantized.items() if name not in silent}


def _compare(path: Path, name: str, ids: Int[Tensor, "1 tokens"], expected: Float[Tensor, "tokens vocabulary"]) -> None:
    difference = np.abs(_differences(OnnxDecoder(path, threads=1), ids, expected)).max()
    if not difference <= AGREE:
        raise NumericsError(
            f"The exported {name} answers {difference:.1%} of its logits' spread apart from the model.",
            "Nothing was written; run the model with PyTorch, and report its architecture.",
        )


def _round_inputs(path: Path, ids: Int[Tensor, "1 tokens"], expected: Float[Tensor, "tokens vocabulary"]) -> None:
    """Has the products of a written graph round their inputs, and says there what that changes."""
    graph = ir.load(path)
    onnx_fusions.set_accuracy(graph, 4)
    ir.save(graph, path)  # its data stay
    rounding = _differences(OnnxDecoder(path, threads=1), ids, expected)
    graph.metadata_props["input_rounding"] = f"{np.sqrt((rounding**2).mean()):.6f}"
    ir.save(graph, path)


def _ends(model: PreTrainedModel) -> str:
    """Ids of the tokens that end an answer."""
    end = getattr(model.generation_config, "eos_token_id", None)
    return " ".join(str(token) for token in ([] if end is None else [end] if isinstance(end, int) else end))


def _reference(
    model: PreTrainedModel,
) -> tuple[Int[Tensor, "1 tokens"], Float[Tensor, "tokens vocabulary"], DynamicCache]:
    """Random tokens, the model's logits after each, and the cache it leaves, which says what keys and values are like.

    Raises:
        InputError: the model does not make words from embeddings with such a cache.
    """
    ids = torch.randint(
        model.get_input_embeddings().num_embeddings, (1, PROMPT + STEPS), generator=torch.Generator().manual_seed(0)
    )
    cache = DynamicCache()  # without a config it keeps all it is given, sliding windows or not
    try:
        output = model(inputs_embeds=model.get_input_embeddings()(ids), use_cache=True, **{cache_name(model): cache})
        kept = [(layer.keys.ndim, layer.keys.shape[2]) for layer in cache.layers]
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise _refusal(model, error) from error
    if set(kept) != {(4, PROMPT + STEPS)}:
        raise _refusal(model, "it keeps something else than keys and values.")
    return ids, output.logits[0].float(), cache


def _refusal(model: PreTrainedModel, why: object) -> InputError:
    return InputError(
        f"{type(model).__name__} cannot be exported for cached generation: {why}",
        "Export language models that take inputs_embeds, keep keys and values, and use transformers' attention "
        "interface; run others with PyTorch.",
    )


class _Passing(DynamicCache):
    """Stands where the cache does and keeps nothing: the attention operator has buffers of its own."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """The new keys and values alone."""
        return key_states, value_states

    def get_seq_length(self, *_: Any) -> int:
        """Nothing: positions are given."""
        return 0


class _Step(nn.Module):
    """The model with its cache as plain inputs and outputs."""

    def __init__(self, model: PreTrainedModel, rotary: Rotary | None) -> None:
        super().__init__()
        self.model = model
        self.rotated = rotary is not None
        self.order = [] if rotary is None else rotary.order
        for index, (cos, sin) in enumerate([] if rotary is None else rotary.tables):
            self.register_buffer(f"cos{index}", cos)
            self.register_buffer(f"sin{index}", sin)
        self.last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}

    def forward(
        self,
        input_ids: Int[Tensor, "1 tokens"],
        inputs_embeds: Float[Tensor, "1 tokens width"],
        total: Int[Tensor, ""],
        past: list[Tensor],
    ) -> list[Tensor]:
        """Logits of the last token, then present keys and values."""
        self.total, self.last_index, self.past = total, (total - 1).reshape(1), past
        self.present: dict[int, Tensor] = {}
        self.calls = 0
        known = self.model.get_input_embeddings()(input_ids.clamp(min=0))
        embedded = torch.where(input_ids[..., None] < 0, inputs_embeds, known)
        count = input_ids.shape[1]
        output = self.model(
            inputs_embeds=embedded,
            position_ids=(total - count + torch.arange(count))[None],
            use_cache=True,
            **{cache_name(self.model): _Passing(config=self.model.config.get_text_config())},
            **self.last,
        )
        return [output.logits[:, -1:], *(self.present[index] for index in sorted(self.present))]

    def attention(
        self,
        module: nn.Module,
        query: Float[Tensor, "1 heads tokens width"],
        key: Float[Tensor, "1 key_heads tokens width"],
        value: Float[Tensor, "1 key_heads tokens width"],
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **other: Any,
    ) -> tuple[Tensor, None]:
        """What transformers calls for attention while the model is traced."""
        if attention_mask is not None or other.get("s_aux") is not None or not getattr(module, "is_causal", True):
            raise InputError("its attention has a mask or sinks that GroupQueryAttention lacks.")
        tokens, place = query.shape[2], 2 * int(module.layer_idx)  # type: ignore[arg-type] # transformers' own attribute
        tables: tuple[Tensor, ...] = ()
        if self.rotated:
            index = self.order[self.calls]
            tables = getattr(self, f"cos{index}"), getattr(self, f"sin{index}")
        self.calls += 1
        settings: dict[str, Any] = {
            "num_heads": query.shape[1],
            "kv_num_heads": key.shape[1],
            "scale": float(scaling if scaling is not None else query.shape[-1] ** -0.5),
            "local_window_size": sliding_window or -1,
            "softcap": float(softcap or 0.0),
            "do_rotary": int(self.rotated),
        }
        flat = [x.transpose(1, 2).reshape(1, tokens, -1) for x in (query, key, value)]
        past = self.past[place : place + 2]
        output, *present = symbolic_multi_out(
            f"{DOMAIN}::GroupQueryAttention",
            (*flat, *past, self.last_index, self.total, *tables),
            settings,
            dtypes=(query.dtype,) * 3,
            shapes=(flat[0].shape, past[0].shape, past[1].shape),
            version=1,
        )
        self.present[place], self.present[place + 1] = present
        return output.reshape(1, tokens, query.shape[1], -1), None


def _trace(model: PreTrainedModel, cache: DynamicCache, rotary: Rotary | None) -> ir.Model:
    step = _Step(model, rotary).eval()
    past = [
        x.new_zeros(1, x.shape[1], PROMPT, x.shape[3]) for layer in cache.layers for x in (layer.keys, layer.values)
    ]
    width = model.get_input_embeddings().embedding_dim
    example = (torch.zeros(1, 3, dtype=torch.long), torch.zeros(1, 3, width), torch.tensor(5, dtype=torch.int32), past)
    tokens, capacity = torch.export.Dim("tokens", min=1), torch.export.Dim("capacity", min=1)
    names = [f"{{}}.{index}.{what}" for index in range(len(past) // 2) for what in ("key", "value")]
    try:
        with warnings.catch_warnings(), _interface(model, step), unrotated(model, on=step.rotated):
            warnings.simplefilter("ignore")  # tracing warns of its own age
            program = torch.export.export(
                step,
                example,
                dynamic_shapes=({1: tokens}, {1: tokens}, None, [{2: capacity}] * len(past)),
                strict=False,
            )
            assert len(step.present) == len(past), "its attention does not go through transformers' interface."
            made = torch.onnx.export(
                program,
                input_names=["input_ids", "inputs_embeds", "total", *(name.format("past") for name in names)],
                output_names=["logits", *(name.format("present") for name in names)],
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # tracing fails in as many ways as there are models
        raise _refusal(model, error) from error
    assert made is not None
    return made.model


@contextmanager
def _interface(model: PreTrainedModel, step: _Step) -> Iterator[None]:
    """Attention done by `step.attention`, and by what did it before once this ends."""
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    ALL_ATTENTION_FUNCTIONS.register(INTERFACE, step.attention)
    try:
        for config in configs.values():
            config._attn_implementation = INTERFACE
        yield
    finally:
        for config, implementation in before:  # outer configs set those within, which follow
            config._attn_implementation = implementation


def _differences(
    decoder: OnnxDecoder, ids: Int[Tensor, "1 tokens"], expected: Float[Tensor, "tokens vocabulary"]
) -> Float[np.ndarray, "steps vocabulary"]:
    """Differences of a decoder's logits over their spread: after a prompt read at once, then token by token."""
    decoder.reset(ids.shape[1])
    given = ids[0].numpy()
    answers = [decoder(given[:PROMPT]).copy(), *(decoder(given[i : i + 1]).copy() for i in range(PROMPT, len(given)))]
    wanted = expected[PROMPT - 1 :].numpy()
    differences: Float[np.ndarray, "steps vocabulary"] = (np.stack(answers) - wanted) / max(float(wanted.std()), 1e-12)
    return differences

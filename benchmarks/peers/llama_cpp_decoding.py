"""llama.cpp's side of `benchmarks.decoding`, in an environment of its own: writes our codes as Q4_0, and runs them when asked.

    python llama_cpp_decoding.py FOLDER THREADS

FOLDER holds `config.json`, and `codes_32.safetensors` with `NAME.codes` and `NAME.scale` of each matrix in groups of 32, which is
what Q4_0 is: the same codes and the same bytes. Asked by JSON lines on standard input; see `benchmarks.decoding.Worker`.
"""

import ctypes
import json
import sys
import time
from pathlib import Path

import gguf
import llama_cpp
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
# llama.cpp turns neighbours where Hugging Face turns halves: the rows of these are interleaved, head by head.
ROPE_ORDER = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


def stored_name(name: str) -> str:
    """A tensor's name in GGUF."""
    name = name.removeprefix("model.")
    if name.startswith("layers."):
        _, layer, part = name.removesuffix(".weight").split(".", 2)
        return f"blk.{layer}.{NAMES[part]}.weight"
    return {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}[name]


def q4_0(codes: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Blocks of 32: a float16 scale, then 16 bytes with codes j (low half) and j + 16 (high half), 8 being zero."""
    rows, columns = codes.shape
    blocks = (codes.astype(np.int16) + 8).astype(np.uint8).reshape(rows, columns // 32, 2, 16)
    packed = blocks[:, :, 0] | blocks[:, :, 1] << 4
    scales = np.ascontiguousarray(scale.astype(np.float16)).view(np.uint8).reshape(rows, -1, 2)
    return np.concatenate([scales, packed], -1).reshape(rows, -1)


def interleaved(x: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head's two halves in turn."""
    return np.ascontiguousarray(x.reshape(heads, 2, -1, x.shape[-1]).swapaxes(1, 2).reshape(x.shape))


def packed_rows(name: str, codes: np.ndarray, scale: np.ndarray, config: dict[str, int]) -> np.ndarray:
    """A matrix as Q4_0, its rows in llama.cpp's order."""
    for part, heads in ROPE_ORDER.items():
        if part in name:
            codes, scale = interleaved(codes, config[heads]), interleaved(scale, config[heads])
    return q4_0(codes, scale)


def write(folder: Path) -> Path:
    """The model as GGUF, unless it is there."""
    path = folder / "q4_0.gguf"
    if path.exists():
        return path
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "codes_32.safetensors")
    writer = gguf.GGUFWriter(path.with_suffix(".partial"), "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    for key, tensor in tensors.items():
        name = key.removesuffix(".codes")
        if name != key:
            packed = packed_rows(name, tensor, tensors[f"{name}.scale"], config)
            writer.add_tensor(stored_name(name), packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
        elif not key.endswith(".scale"):
            writer.add_tensor(stored_name(name), tensor.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_suffix(".partial").rename(path)


class Model:
    """The model in llama.cpp, with a context of its own."""

    def __init__(self, path: Path, threads: int, room: int = 1024) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = room, 512, 512
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))

    def reset(self) -> None:
        """Forget what was read."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def __call__(self, ids: list[int]) -> np.ndarray:
        """Read tokens; the logits of what comes next."""
        tokens = (llama_cpp.llama_token * len(ids))(*ids)  # the batch points at it
        batch = llama_cpp.llama_batch_get_one(tokens, len(ids))
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        found = llama_cpp.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(ctypes.cast(found, ctypes.POINTER(ctypes.c_float)), (self.vocabulary,))


def main() -> None:
    """Answer requests: {"ids": prompt, "count": tokens} -> {"prefill": s, "decode": s, "tokens": ids made}."""
    folder, threads = Path(sys.argv[1]), int(sys.argv[2])
    model = Model(write(folder), threads)
    print(json.dumps({"ready": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        model.reset()
        start = time.perf_counter()
        made = [int(model(asked["ids"]).argmax())]
        read = time.perf_counter()
        for _ in range(asked["count"]):
            made.append(int(model(made[-1:]).argmax()))
        print(json.dumps({"prefill": read - start, "decode": time.perf_counter() - read, "tokens": made}), flush=True)


if __name__ == "__main__":
    main()

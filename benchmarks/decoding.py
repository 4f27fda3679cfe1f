"""Generating token by token on this CPU: a decoder of SmolVLM-256M's geometry with our four-bit codes, against others.

Random weights rounded to nearest in groups of 32, which is also llama.cpp's Q4_0: both run the same codes. Beside them our own
default, groups of 64. Engines are processes that take turns, a prompt of 256 tokens and then one token after another; between
them the memory is read as fast as it goes, which bounds what four-bit weights can give.

    python -m benchmarks.decoding [--rounds 7] [--count 96] [--threads 1 2] [--engines onnxruntime llama_cpp ...]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from benchmarks import geometry, record
from benchmarks.peers import environments
from triptych.compress.quantize import layers
from triptych.compress.quantize.grid import Codes, Grid
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight
from triptych.engines.generate import Decoder, TorchDecoder
from triptych.engines.onnxruntime import OnnxDecoder
from triptych.export import onnx, onnx_fusions

WORK = Path(__file__).parents[1] / "runs" / "decoding"
GROUPS, PROMPT = (32, 64), 256  # the first is llama.cpp's
FLOAT_INPUTS = "float_inputs.onnx"
ENGINES = ("llama_cpp", "onnxruntime", "onnxruntime_float_inputs", "onnxruntime_groups_of_64", "torch_float")
READ_BYTES = 256 * 2**20


def prepare() -> Path:
    """Writes the model, its codes and the exported graphs, unless they are there."""
    folder = geometry.smollm_135m(WORK / "model")
    for group in GROUPS:
        if not (folder / f"codes_{group}.safetensors").exists():
            _round(folder, group)
        written = folder / f"onnxruntime_{group}" / onnx.NAME
        if not written.exists():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            onnx.export(model, coded(folder, model, group), written.parent, context=1024)
        if not written.with_name(FLOAT_INPUTS).exists():
            graph = onnx_ir.load(written)
            onnx_fusions.set_accuracy(graph, 0)
            onnx_ir.save(graph, written.with_name(FLOAT_INPUTS))  # reads the same data
    return folder


def _round(folder: Path, group: int) -> None:
    """Writes codes to nearest: `NAME.codes` and `NAME.scale` of each matrix, and all else as it is."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    views, tensors = layers.weights(model), {}
    for name, view in views.items():
        groups = view.matrix.unflatten(1, (-1, group))
        scale = (groups.abs().amax(-1, keepdim=True) / 7).to(torch.float16)
        tensors[f"{name}.codes"] = (groups / scale.float()).round().clamp(-8, 7).to(torch.int8).flatten(1)
        tensors[f"{name}.scale"] = scale.squeeze(-1)
    plain = {name: tensor.detach() for name, tensor in model.named_parameters() if name not in views}
    save_file({**tensors, **plain}, folder / f"codes_{group}.safetensors")


def coded(folder: Path, model: torch.nn.Module, group: int) -> dict[str, QuantizedWeight]:
    """The codes that `prepare` wrote."""
    tensors, grid = load_file(folder / f"codes_{group}.safetensors"), Grid(bits=4, group=group)
    return {
        name: QuantizedWeight(
            Codes(tensors[f"{name}.codes"], tensors[f"{name}.scale"].float(), None, grid),
            tuple(view.parameter.shape),
            LayerScheme(weight=grid, method="rtn"),
        )
        for name, view in layers.weights(model).items()
    }


def decoder(engine: str, folder: Path, threads: int) -> Decoder:
    """An engine of ours."""
    group = group_of(engine)
    if engine.startswith("onnxruntime"):
        file = FLOAT_INPUTS if engine.endswith("float_inputs") else onnx.NAME
        return OnnxDecoder(folder / f"onnxruntime_{group}" / file, threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    layers.apply(model, coded(folder, model, group))
    return TorchDecoder(model, threads)


def group_of(engine: str) -> int:
    """Columns that share a scale."""
    return GROUPS[engine.endswith("groups_of_64")]


def stored(folder: Path, group: int) -> tuple[int, float]:
    """What a token has to read at least, every code and scale once: bytes, and bits a weight."""
    tensors = load_file(folder / f"codes_{group}.safetensors")
    weights = sum(tensor.numel() for name, tensor in tensors.items() if name.endswith(".codes"))
    scales = sum(tensor.nbytes for name, tensor in tensors.items() if name.endswith(".scale"))
    return weights // 2 + scales, 4 + 8 * scales / weights


def serve(engine: str, folder: Path, threads: int) -> None:
    """What a process of one of our engines does: the same as `peers/llama_cpp_decoding.py`."""
    model = decoder(engine, folder, threads)
    print(json.dumps({"ready": version("torch" if engine.startswith("torch") else "onnxruntime")}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        model.reset(len(asked["ids"]) + asked["count"])
        start = time.perf_counter()
        made = [int(model(np.array(asked["ids"])).argmax())]
        read = time.perf_counter()
        for _ in range(asked["count"]):
            made.append(int(model(np.array(made[-1:])).argmax()))
        print(json.dumps({"prefill": read - start, "decode": time.perf_counter() - read, "tokens": made}), flush=True)


class Worker:
    """An engine in a process of its own, asked by JSON lines."""

    def __init__(self, engine: str, folder: Path, threads: int) -> None:
        self.engine, self.threads = engine, threads
        here = [sys.executable, "-m", "benchmarks.decoding", "--serve", engine]
        there = [str(environments.python(engine)), str(Path(__file__).parent / "peers" / "llama_cpp_decoding.py")]
        self.process = subprocess.Popen(
            [*(there if engine == "llama_cpp" else here), str(folder), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )
        self.version = self._answer()["ready"]

    def __call__(self, ids: list[int], count: int) -> dict[str, Any]:
        """Seconds for a prompt and for `count` tokens more, and the tokens."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ids": ids, "count": count}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"{self.engine} ended without an answer; run its command by hand to see why")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def read_speed(buffer: torch.Tensor, threads: int) -> float:
    """Bytes a second that `threads` threads sum."""
    torch.set_num_threads(threads)
    start = time.perf_counter()
    buffer.sum()
    return buffer.nbytes / (time.perf_counter() - start)


def measure(folder: Path, engines: list[str], threads: list[int], rounds: int, count: int) -> dict[str, Any]:
    """Rounds of all engines in turn, the order reversed every second time."""
    ids = torch.randint(geometry.SMOLLM["vocab_size"], (PROMPT,), generator=torch.Generator().manual_seed(0)).tolist()
    workers = [Worker(engine, folder, n) for engine in engines for n in threads]
    buffer = torch.ones(READ_BYTES // 4)
    readings: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    speeds = []
    try:
        for worker in workers:
            worker(ids, 4)
        for turn in range(rounds):
            for worker in workers if turn % 2 else reversed(workers):
                speeds.append(max(read_speed(buffer, n) for n in threads))
                readings[f"{worker.engine}, {worker.threads} threads"].append(worker(ids, count))
            print(f"round {turn + 1} of {rounds}", flush=True)
    finally:
        for worker in workers:
            worker.close()
    fastest = float(np.percentile(speeds, 90))
    rows = {}
    for worker in workers:
        name = f"{worker.engine}, {worker.threads} threads"
        size, bits = stored(folder, group_of(worker.engine))
        rows[name] = summary(readings[name], count, fastest / size)
        rows[name] |= {"bits_per_weight": bits, "tokens_as_first": agreement(readings[name], readings)}
    return {
        "prompt": PROMPT,
        "count": count,
        "read_bytes_per_second": {**spread(speeds), "fastest": fastest},
        "versions": {worker.engine: worker.version for worker in workers},
        "engines": rows,
    }


def summary(taken: list[dict[str, Any]], count: int, bound: float) -> dict[str, Any]:
    """Medians and spreads of one engine's rounds."""
    rates = spread([count / one["decode"] for one in taken])
    prefill = spread([1000 * one["prefill"] for one in taken])
    return {
        "tokens_per_second": rates,
        "bound": bound,
        "share_of_bound": rates["median"] / bound,
        "prefill_ms": prefill,
    }


def agreement(taken: list[dict[str, Any]], readings: dict[str, list[dict[str, Any]]]) -> int:
    """Tokens made before the first that differs from the first engine's."""
    first = next(iter(readings.values()))[0]["tokens"]
    pairs = zip(taken[0]["tokens"], first, strict=True)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), len(first))


def spread(values: list[float]) -> dict[str, float]:
    """The median and the quartiles."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "low": float(low), "high": float(high)}


def available(engines: list[str]) -> Iterator[str]:
    """Those that can run here; says which cannot."""
    for engine in engines:
        if engine == "llama_cpp" and not environments.ready(engine):
            print("llama.cpp is left out: make it with `python -m benchmarks.peers.environments llama_cpp`")
        else:
            yield engine


def main() -> None:
    """Measure and record."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=96)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, os.cpu_count() or 1}))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    asked = parser.parse_args()
    found = measure(prepare(), list(available(asked.engines)), asked.threads, asked.rounds, asked.count)
    record.write("decoding", found)
    for name, row in found["engines"].items():
        rate, prefill = row["tokens_per_second"], row["prefill_ms"]
        print(
            f"{name}: {rate['median']:.0f} tokens/s ({rate['low']:.0f} to {rate['high']:.0f}), "
            f"{row['share_of_bound']:.0%} of the bound, prompt {prefill['median']:.0f} ms"
        )


if __name__ == "__main__":
    main()

"""Ours against its peers on the trained models and on copies of them with outliers: 8, 4, 3 and 2 bits, same samples, same groups.

    python -m benchmarks.fidelity.run [--copies vlm "clip + outliers"] [--bits 3 2] [--seeds 0] [--contenders "NNCF" ...]

Every contender rounds every linear layer but the output head, in groups of 64 (NNCF and quanto store 8 bits with one scale a
row), after the same 128 calibration samples, drawn anew for each seed; `bits` of a row counts codes, scales and zero points.
One process of a contender takes all its jobs; what it leaves is a folder, scored here by `cases.score`. Rows are kept in
results/fidelity.json as they come, so that a run that is stopped goes on.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks import record
from benchmarks.fidelity import bound, cases
from benchmarks.fidelity.training import FOLDER
from benchmarks.peers import environments, harness
from triptych.compress.quantize.pack import unpack

WORK = FOLDER / "compressed"
BITS, SEEDS, GROUP = (3, 2, 4, 8), (0, 1, 2), 64
STEPS = 50  # of AutoRound: its recipe "light"; the default of 200 takes five minutes a model on one core
OUTLIERS = " + outliers"

# Peer and method by the name in the table; of our own command the method, and further options.
PEERS: dict[str, tuple[str, str]] = {
    "llm-compressor GPTQ": ("llmcompressor", "gptq_whole"),
    "llm-compressor AWQ": ("llmcompressor", "awq_whole"),
    "auto-round": ("auto_round", "auto_round"),
    "NNCF": ("nncf", "best"),
    "HQQ": ("hqq", "hqq"),
    "quanto": ("quanto", "quanto"),
}
OURS: dict[str, tuple[str, ...]] = {
    "Triptych GPTQ": ("gptq",),
    "Triptych descent": ("descent",),
    "Triptych descent, migrated": ("descent", "--migrate", "awq"),
    "Triptych descent + recover": ("descent", "--recover"),
    "Triptych descent, migrated + recover": ("descent", "--migrate", "awq", "--recover"),
}


@dataclass(frozen=True)
class Case:
    """One cell of the table."""

    copy: str  # the model's name, with OUTLIERS or without
    bits: int
    contender: str
    seed: int

    @property
    def model(self) -> str:
        return self.copy.removesuffix(OUTLIERS)

    @property
    def out(self) -> Path:
        words = (self.copy, str(self.bits), self.contender, str(self.seed))
        return WORK / "-".join(words).replace(" ", "-").replace("+", "and")

    @property
    def folder(self) -> Path:
        return cases.outlier_folder(self.model) if self.copy.endswith(OUTLIERS) else cases.folder(self.model)

    def row(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Where its figures stand."""
        found: dict[str, Any] = (
            rows.setdefault(self.copy, {}).setdefault(str(self.bits), {}).setdefault(self.contender, {})
        )
        return found

    def left(self) -> bool:
        """Whether an earlier run was stopped between the contender's work and its score."""
        return self.out.exists() and (self.contender in OURS or self.out.with_suffix(".json").exists())

    def done(self, rows: dict[str, Any]) -> bool:
        return str(self.seed) in self.row(rows)


def layers(case: Case) -> Path:
    """A file with the names of the layers that everyone rounds."""
    path = WORK / f"{case.model}-layers.json"
    if not path.exists():
        path.write_text(json.dumps(harness.layers(cases.load(case.model), "all")))
    return path


def theirs(case: Case) -> list[str]:
    """A peer's command line."""
    cases.calibration(case.model, case.seed)
    options = {
        "model": case.folder,
        "calibration": cases.calibration_file(case.model, case.seed),
        "bits": case.bits,
        "group": GROUP,
        "method": PEERS[case.contender][1],
        "modules": layers(case),
        "out": case.out,
        "result": case.out.with_suffix(".json"),
        "batch": 32 if case.contender.startswith("llm") else 1,  # others draw samples themselves, or trace one
        "threads": 1,
        "steps": STEPS,
        "seed": case.seed,
    }
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def ours(case: Case) -> list[str]:
    """Our command line: a plan that rounds these layers, the samples as a folder of tensors."""
    data = FOLDER / "calibration" / f"{case.model}-{case.seed}"
    if not data.exists():
        stage = data.with_name(f".{data.name}")
        stage.mkdir(parents=True, exist_ok=True)
        for number, sample in enumerate(cases.calibration(case.model, case.seed)):
            save_file({name: t.contiguous() for name, t in sample.items()}, stage / f"{number:04d}.safetensors")
        stage.rename(data)
    method, *others = OURS[case.contender]
    plan = WORK / f"{case.model}-{case.bits}-{method}.yaml"
    named = {f"{name}.weight": f"w{case.bits}g{GROUP}" for name in json.loads(layers(case).read_text())}
    step = {"do": "quantise", "method": method, "components": {"*": "fp32"}, "layers": named}
    plan.write_text(yaml.safe_dump({"version": 1, "passes": [step]}))
    options = ["--data", str(data), "--plan", str(plan), "--out", str(case.out), "--seed", str(case.seed)]
    asked = ["--rows", str(cases.SAMPLES), "--check", "0", *others]
    return ["compress", str(case.folder), *options, *asked]


def carry_out(todo: list[Case]) -> None:
    """Have one contender do its jobs, in one process of its own environment or of ours."""
    contender = todo[0].contender
    todo = [case for case in todo if not case.left()]
    for case in todo:
        shutil.rmtree(case.out, ignore_errors=True)
    if not todo:
        return
    jobs = WORK / f"{contender.replace(' ', '-')}-{os.getpid()}.jobs.json"
    if contender in PEERS:
        peer = PEERS[contender][0]
        jobs.write_text(json.dumps([theirs(case) for case in todo]))
        command = [str(environments.make(peer)), "-m", f"benchmarks.peers.{peer}_run", "--jobs", str(jobs)]
    else:
        jobs.write_text(json.dumps([ours(case) for case in todo]))
        command = [sys.executable, "-m", "benchmarks.fidelity.commands", str(jobs)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with jobs.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads}, check=False)


def scored(case: Case) -> dict[str, Any]:
    """The figures of what a contender left; its error where it left nothing."""
    result = case.out.with_suffix(".json")
    told = json.loads(result.read_text()) if result.exists() else {}
    if case.contender in PEERS and told.get("status") != "done":
        return {"error": " ".join(str(told.get("error", "its process died")).split())[:160]}
    if not case.out.exists():
        return {"error": "the command failed"}
    model = cases.load(case.model)
    names = json.loads(layers(case).read_text())
    model.load_state_dict(restored(case.out, model), strict=True)
    found = cases.score(case.model, model)
    bits = told["bits_per_weight"] if told else harness.price(weights(model, names).values(), case.bits, GROUP)
    gap = None
    if not case.contender.endswith("AWQ"):  # whose weights stand before inputs of other sizes
        before = type(model).from_pretrained(case.folder)
        gap = bound.gap_db(case, weights(before, names), weights(model, names), bits)
    task = {key: round(value, 4) for key, value in found.items() if key not in {"kl", "flips", "answers"}}
    shutil.rmtree(case.out)
    result.unlink(missing_ok=True)
    return {
        "kl": float(f"{found['kl']:.4g}"),
        "flips": round(found["flips"], 4),
        "task": task,
        "bits": round(bits, 3),
        **({} if gap is None else {"gap_db": round(gap, 2)}),
    }


def weights(model: Any, names: list[str]) -> dict[str, Tensor]:
    return {name: model.get_parameter(f"{name}.weight").detach() for name in names}


def restored(folder: Path, model: Any) -> dict[str, Tensor]:
    """All parameters of a folder by the model's own names, packed weights as the numbers their codes stand for."""
    config = json.loads((folder / "config.json").read_text())
    if "quantization_config" not in config:
        return dict(type(model).from_pretrained(folder).state_dict())
    stored = load_file(folder / "model.safetensors")
    dense = dict[str, Tensor]()
    for key, tensor in stored.items():
        layer, _, kind = key.rpartition(".")
        if kind == "weight_packed":
            scale, columns = stored[f"{layer}.weight_scale"].float(), int(stored[f"{layer}.weight_shape"][1])
            bits = tensor.shape[1] * 32 // columns
            dense[f"{layer}.weight"] = unpack(tensor, bits, columns).float() * scale.repeat_interleave(GROUP, 1)
        elif kind == "weight" and f"{layer}.weight_scale" in stored:
            dense[key] = tensor.float() * stored[f"{layer}.weight_scale"].float().repeat_interleave(GROUP, 1)
        elif not kind.startswith("weight_"):
            dense[key] = tensor
    stage = folder / "dense"
    stage.mkdir(exist_ok=True)
    save_file(dense, stage / "model.safetensors", metadata={"format": "pt"})
    del config["quantization_config"]
    (stage / "config.json").write_text(json.dumps(config))
    return dict(type(model).from_pretrained(stage).state_dict())


def waves(asked: argparse.Namespace) -> Iterator[list[Case]]:
    """What is done in which order: the first seed at few bits, then eight, then the other seeds; a contender at a time."""
    for seed in asked.seeds:
        for bits in ([b for b in asked.bits if b < 8], [b for b in asked.bits if b == 8]):
            for contender in asked.contenders:
                yield [Case(copy, width, contender, seed) for copy in asked.copies for width in bits]


def main() -> None:
    """Measure what is asked for and not yet measured."""
    parser = argparse.ArgumentParser()
    copies = [name + suffix for suffix in ("", OUTLIERS) for name in cases.NAMES]
    parser.add_argument("--copies", nargs="*", default=copies)
    parser.add_argument("--bits", nargs="*", type=int, default=list(BITS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--contenders", nargs="*", default=[*OURS, *PEERS])
    WORK.mkdir(parents=True, exist_ok=True)
    for wave in waves(parser.parse_args()):
        rows = record.read("fidelity").get("rows", {})
        todo = [case for case in wave if not case.done(rows)]
        if not todo:
            continue
        carry_out(todo)
        for case in todo:
            figures = scored(case)
            rows = record.read("fidelity").get("rows", {})  # another process may have written
            case.row(rows)[str(case.seed)] = figures
            record.write("fidelity", {"group": GROUP, "samples": cases.SAMPLES, "steps": STEPS, "rows": rows})
            print(case.copy, case.bits, case.contender, case.seed, json.dumps(figures), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

"""`triptych compress`: plan -> passes -> gate, each finished pass published in a work folder, so that a killed run continues there.

Calibration uses training rows, the gate backs off by looking at the valid rows, and the test rows are looked at once, at the end.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from triptych import artifact, console
from triptych.compress import plan as plans
from triptych.compress.gate import Contract, Verdict, judge
from triptych.compress.passes import State, Surroundings, run_pass, zeros_kept
from triptych.compress.planner import Budget, make_plan
from triptych.compress.quantize.layers import weights
from triptych.data.samples import Samples
from triptych.data.splits import Splits
from triptych.engines import Engine
from triptych.engines.openvino import OpenVINOEngine
from triptych.errors import BudgetError
from triptych.evaluate.quality import Quality, conditions, measure
from triptych.evaluate.size import size_bytes
from triptych.models.store import Loaded, read_model, write_model

SQNR = "sqnr_db.json"  # per rounded layer, signal over rounding noise of its output on calibration rows


@dataclass
class Attempt:
    """One plan that was carried out, and how it did on the valid rows."""

    plan: plans.Plan
    folder: Path
    size_bytes: int
    verdict: Verdict
    quality: float


@dataclass
class Compressed:
    """The outcome: the model that was published, the plan it came from, and the verdict on the test rows."""

    loaded: Loaded
    plan: plans.Plan
    before: Quality
    after: Quality
    verdict: Verdict
    attempts: list[Attempt] = field(default_factory=list)
    sqnr_db: dict[str, float] = field(default_factory=dict)


def compress(
    original: Loaded,
    splits: Splits,
    out: Path,
    *,
    budget: Budget,
    contract: Contract,
    distil: plans.Distil | None = None,
    plan: plans.Plan | None = None,
    seed: int = 0,
) -> Compressed:
    """Compress a model within a budget, and judge what is left.

    Args:
        original: the model, read from its folder.
        splits: tables with train, valid and test rows of the model's own schema.
        out: the folder to publish the compressed model in.
        budget: bytes and milliseconds.
        contract: what must be kept; judged on the valid rows to back off, on the test rows at the end.
        distil: how a narrowed model is healed.
        plan: carry out this plan instead of searching for one.
        seed: of calibration rows and recovery.

    Raises:
        BudgetError: no plan fits; nothing was published.
        Stopped: interrupted; the same call continues.
    """
    identity: dict[str, Any] = {
        "kind": "compressed",
        "model": original.sha256,
        "data": splits.sha256,
        "budget": budget.model_dump(mode="json"),
        "contract": contract.model_dump(mode="json"),
        "distil": None if distil is None else distil.model_dump(mode="json"),
        "plan": None if plan is None else plan.model_dump(mode="json"),
        "seed": seed,
    }
    work = out.with_name(out.name + ".work")
    rows, valid, test = (
        Samples(splits.table(name), original.processor, splits.schema) for name in ("train", "valid", "test")
    )
    around = Surroundings(original.model, rows, valid, seed)
    done = artifact.existing(out, identity)
    artifact.claim(work, identity)
    attempts: list[Attempt] = []
    run = _engine(original, valid)
    if not done:
        found = [plan] if plan else _plans(original, around, budget, distil or plans.Distil(), work, identity)
        _check(found, original)
        before = _quality(run, original, valid, label="original on valid rows")
        attempts = _attempts(found, original, before, around, work, budget, contract, splits)
        best = _best(attempts, budget)
        chosen = read_model(best.folder)
        with artifact.publish(out, identity) as staging:
            write_model(staging, chosen.model, chosen.processor, chosen.quantized)
            _write_beside(staging, best.plan, _read_sqnr(best.folder))
    loaded = read_model(out)
    before = _quality(run, original, test, label="original on test rows", shuffled=True)
    after = _quality(_engine(loaded, test), loaded, test, label="compressed on test rows", shuffled=True)
    verdict = judge(contract, before, after, list(test.groups.values()))
    plan = plans.read_plan(out / "plan.yaml")
    return Compressed(loaded, plan, before, after, verdict, attempts, _read_sqnr(out))


def _attempts(
    found: list[plans.Plan],
    original: Loaded,
    before: Quality,
    around: Surroundings,
    work: Path,
    budget: Budget,
    contract: Contract,
    splits: Splits,
) -> list[Attempt]:
    """Carry out plans in turn until one is within its bytes and keeps the contract on the valid rows."""
    attempts: list[Attempt] = []
    for number, plan in enumerate(found, 1):
        console.say(f"attempt {number}: {plan.why or 'the given plan'}")
        folder = _carry_out(plan, original, around, work / f"attempt-{number}", splits)
        tried = read_model(folder)
        run = _engine(tried, around.valid)
        after = _quality(run, tried, around.valid, label=f"attempt {number} on valid rows")
        verdict = judge(contract, before, after, list(around.valid.groups.values()))
        attempts.append(Attempt(plan, folder, size_bytes(folder), verdict, after.mean()))
        if budget.size_bytes is not None and attempts[-1].size_bytes > budget.size_bytes:
            console.say(
                f"attempt {number}: {attempts[-1].size_bytes:,} bytes, over the {budget.size_bytes:,} of the budget"
            )
        elif verdict.broken:
            console.say(f"attempt {number} breaks the contract on the valid rows: {'; '.join(verdict.broken)}")
        else:
            break
    return attempts


def _best(attempts: list[Attempt], budget: Budget) -> Attempt:
    """The attempt that keeps the contract, or the best that fits."""
    limit = budget.size_bytes
    fitting = [attempt for attempt in attempts if limit is None or attempt.size_bytes <= limit]
    if not fitting:
        least = min(attempt.size_bytes for attempt in attempts)
        raise BudgetError(
            f"Every plan came out larger than {limit:,} bytes; the smallest is {least:,}.", "Raise the budget."
        )
    return max(fitting, key=lambda attempt: (not attempt.verdict.broken, attempt.quality))


def _plans(
    original: Loaded,
    around: Surroundings,
    budget: Budget,
    distil: plans.Distil,
    work: Path,
    identity: Mapping[str, Any],
) -> list[plans.Plan]:
    """Search for plans, or read those that an earlier, stopped run of the same identity found."""
    folder = work / "plans"
    if not artifact.existing(folder, identity):
        found = make_plan(around, budget, distil=distil, model_sha256=original.sha256)
        with artifact.publish(folder, identity) as staging:
            for number, plan in enumerate(found):
                (staging / f"{number}.yaml").write_text(plans.write_plan(plan), encoding="utf-8")
    return [plans.read_plan(file) for file in sorted(folder.glob("*.yaml"))]


def _check(found: list[plans.Plan], original: Loaded) -> None:
    model = original.model
    widths = {width.name: width.units for width in model.widths()}
    for plan in found:
        plans.check_names(plan, layers=weights(model), widths=widths, blocks=model.droppable())


def _carry_out(plan: plans.Plan, original: Loaded, around: Surroundings, work: Path, splits: Splits) -> Path:
    """Do the passes of a plan, each published when it is done; the folder of the last."""
    folder = work
    for index, step in enumerate(plan.passes):
        identity = {
            "passes": [p.model_dump(mode="json") for p in plan.passes[: index + 1]],
            "model": original.sha256,
            "data": splits.sha256,
            "seed": around.seed,
        }
        before, folder = folder, work / f"{index + 1}-{step.do}"
        if artifact.existing(folder, identity):
            continue
        state = _read_state(before, plan.passes[:index]) if index else State(copy.deepcopy(original.model))
        torch.manual_seed(around.seed)
        run_pass(state, step, around, work / f"{index + 1}-{step.do}.work")
        with artifact.publish(folder, identity) as staging:
            write_model(staging, state.model, original.processor, state.quantized)
            _write_beside(staging, plan, state.sqnr_db)
    return folder


def _read_state(folder: Path, done: Sequence[plans.Pass]) -> State:
    """What a published pass left. A run that was never stopped reads it too: the same bits, in the same memory layout."""
    loaded = read_model(folder)
    sparse = any(isinstance(step, plans.Sparsify) for step in done)
    return State(loaded.model, loaded.quantized, zeros_kept(loaded.model) if sparse else None, _read_sqnr(folder))


def _write_beside(folder: Path, plan: plans.Plan, sqnr_db: Mapping[str, float]) -> None:
    """What stands beside a compressed model: its plan, and how well each rounded layer still answers."""
    (folder / "plan.yaml").write_text(plans.write_plan(plan), encoding="utf-8")
    if sqnr_db:
        (folder / SQNR).write_text(json.dumps({name: round(db, 1) for name, db in sqnr_db.items()}), encoding="utf-8")


def _read_sqnr(folder: Path) -> dict[str, float]:
    path = folder / SQNR
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _engine(loaded: Loaded, samples: Samples) -> OpenVINOEngine:
    first = samples.batch([0])
    return OpenVINOEngine(loaded.model, (first.inputs, first.presence), loaded.quantized)


def _quality(run: Engine, loaded: Loaded, samples: Samples, *, label: str, shuffled: bool = False) -> Quality:
    """The quality with all modalities and without each; `shuffled` adds the conditions that only the report shows."""
    asked = conditions(loaded.model.fields)
    if not shuffled:
        asked = [name for name in asked if not name.startswith("shuffled")]
    return measure(run, loaded.model.task, samples, only=asked, label=label)


def worst_rows(before: Quality, after: Quality, count: int = 10) -> list[int]:
    """Rows that the compressed model gets worse than the original, the most confident loss first."""
    loss = before.scores["all"] - after.scores["all"]
    drift = np.abs(np.subtract(before.outputs, after.outputs, dtype=np.float64)).reshape(len(loss), -1).max(1)
    order = np.lexsort((-drift, -loss))
    return [int(i) for i in order[:count]]

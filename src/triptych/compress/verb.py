"""`triptych compress` from words to outcome: parse the budget, run, write the report, judge."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from triptych import console
from triptych.compress import plan as plans
from triptych.compress.amounts import BYTES, parse_amount
from triptych.compress.gate import Contract
from triptych.compress.passes import Surroundings
from triptych.compress.planner import Budget, make_plan
from triptych.compress.run import Compressed, compress
from triptych.data.samples import Samples
from triptych.data.splits import Splits
from triptych.errors import ContractBroken
from triptych.evaluate.bootstrap import Interval
from triptych.evaluate.size import size_bytes
from triptych.models.store import Loaded, read_model
from triptych.report.schema import Report
from triptych.report.words import compared, promise
from triptych.structure import Settings

MILLISECONDS = {"ms": 1.0, "us": 1e-3, "s": 1e3}


class Request(Settings):
    """What was asked for on the command line."""

    model: Path
    data: Path
    out: Path
    size: str | None = None
    latency: str | None = None
    keep: str = "98%"
    keep_modality: str = "95%"
    plan: Path | None = None
    steps: int = 400
    seed: int = 0


def carry_out(
    request: Request, *, command: str, dry_run: bool = False, log: list[dict[str, float]] | None = None
) -> dict[str, Any]:
    """Compress, write report.json and report.html beside the output folder, and raise where the contract is broken.

    Raises:
        ContractBroken: the report is written all the same.
    """
    from triptych.report.build import build_report
    from triptych.report.page import write_report

    began = time.monotonic()
    original = read_model(request.model)
    splits = original.splits(request.data)
    budget = read_budget(request)
    distil = plans.Distil(steps=request.steps)
    if dry_run:
        return _dry_run(request, original, splits, budget, distil)
    contract = Contract(
        keep=_share(request.keep, "--keep"), keep_modality=_share(request.keep_modality, "--keep-modality")
    )
    plan = plans.read_plan(request.plan) if request.plan else None
    outcome = compress(
        original, splits, request.out, budget=budget, contract=contract, distil=distil, plan=plan, seed=request.seed
    )
    with console.stage("measure speed and memory"):
        report = build_report(
            original,
            outcome,
            splits,
            title=request.out.name,
            command=command,
            log=log or [],
            began=began,
            data_path=request.data,
        )
    folder = request.out.parent
    write_report(report, folder)
    show(outcome, report)
    console.say(promise(report))
    console.say(f"the report is in {folder / 'report.html'}")
    if outcome.verdict.broken:
        raise ContractBroken(
            f"The compressed model in {request.out} breaks the contract: {'; '.join(outcome.verdict.broken)}.",
            "Allow more bytes or milliseconds, more --steps, or a smaller --keep.",
        )
    return report.model_dump(mode="json")


def read_budget(request: Request) -> Budget:
    """The budget in bytes and milliseconds; shares are of the original folder, and of one sample through it in PyTorch."""
    size = limit = share = None
    if request.size is not None:
        size = int(parse_amount(request.size, size_bytes(request.model), BYTES, "size"))
    if request.latency is not None and request.latency.strip().endswith("%"):
        share = parse_amount(request.latency, 1.0, {}, "latency")
    elif request.latency is not None:
        limit = parse_amount(request.latency, 1.0, MILLISECONDS, "latency")
    return Budget(size_bytes=size, latency_ms=limit, latency_share=share)


def show(outcome: Compressed, report: Report) -> None:
    """The one table that matters."""
    before, after, size = report.before, report.after, console.human_bytes
    rows = [
        [
            "bytes on disk",
            size(before.bytes),
            size(after.bytes),
            compared(report.ratio.bytes, "smaller", "larger", "the same"),
        ]
    ]

    def faster(name: str, was: float, now: float) -> None:
        rows.append([name, f"{was:.2f} ms", f"{now:.2f} ms", compared(was / now, "faster", "slower", "equally fast")])

    faster(f"latency, from {before.engine}", before.latency_ms.p50, after.latency_ms.p50)
    for row in report.engines:
        if row.engine == "OpenVINO" and row.model == "original":
            faster("  from OpenVINO fp32", row.latency_ms.p50, after.latency_ms.p50)
    if before.peak_memory_bytes and after.peak_memory_bytes and report.ratio.memory:
        memory = compared(report.ratio.memory, "less", "more", "the same")
        rows.append(["peak memory", size(before.peak_memory_bytes), size(after.peak_memory_bytes), memory])
    verdict, quality = outcome.verdict, (outcome.before, outcome.after)
    rows.append([outcome.before.metric, *(f"{q.mean():.2%}" for q in quality), _kept(verdict.kept)])
    for name, kept in verdict.modalities.items():
        rows.append([f"  without {name}", *(f"{q.mean(f'without:{name}'):.2%}" for q in quality), _kept(kept.interval)])
    console.table("before and after", ["", "original", "compressed", "kept, with its 95 % interval"], rows)


def _kept(interval: Interval) -> str:
    if not np.isfinite(interval.point):
        return "contributed nothing"
    return f"{interval.point:.1%} ({interval.low:.1%} to {interval.high:.1%})"


def _dry_run(
    request: Request, original: Loaded, splits: Splits, budget: Budget, distil: plans.Distil
) -> dict[str, Any]:
    rows, valid = (Samples(splits.table(name), original.processor, splits.schema) for name in ("train", "valid"))
    around = Surroundings(original.model, rows, valid, request.seed)
    plan = make_plan(around, budget, distil=distil, model_sha256=original.sha256, count=1)[0]
    console.say(plans.write_plan(plan))
    return plan.model_dump(mode="json")


def _share(text: str, what: str) -> float:
    return parse_amount(text, 1.0, {}, f"share for {what}")

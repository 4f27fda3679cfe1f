"""`triptych compress` for a Hugging Face folder: choose by component, round block by block from disk, write, compare.

The model is never in memory as a whole; the original and the compressed model are compared by streaming both.
"""

import gc
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor

from triptych import artifact, console
from triptych.compress import coverage
from triptych.compress import plan as plans
from triptych.compress.coverage import Coverage, counted
from triptych.compress.driver import Group, drive
from triptych.compress.hub.decide import PLAN
from triptych.compress.hub.kv_cache import observe, round_caches
from triptych.compress.hub.memory import hold_memory, limit_memory, out_of_memory, resident_bytes, return_memory
from triptych.compress.hub.preflight import forecast, show
from triptych.compress.hub.prepare import Prepared, prepare
from triptych.compress.hub.recovery import recovered
from triptych.compress.hub.request import HubRequest, work_folder
from triptych.compress.hub.tell import build, component_rows, show_choice, show_outcome, way_out, write_card
from triptych.compress.hub.write import REPORT, write
from triptych.compress.journal import Journal
from triptych.compress.lockstep import Stop
from triptych.compress.offload import Offload
from triptych.errors import ContractBroken, NumericsError, Stopped
from triptych.evaluate.agreement import answers, compare, conditions
from triptych.models.folder import fingerprint
from triptych.models.tiny_batch import ModelBatch

WAITING_BYTES = 64 * 2**20  # of what waiting samples hold in memory, once the rest has gone to the disk


def compress_folder(request: HubRequest, *, command: str, dry_run: bool = False) -> dict[str, Any]:
    """Compress a folder into another, and compare the two on held-out rows.

    Raises:
        ContractBroken: a promise was asked for and is not kept; the folder and its report are written all the same.
        ArtifactError: another process is at `out`, or something else stands there.
        Stopped: memory or disk do not suffice; the same call goes on at the block it was in.
    """
    began = time.monotonic()
    hold_memory(request.model, request.memory)
    if request.memory is not None:
        limit_memory(request.memory)
    if dry_run:
        ready = prepare(request)
        show_choice(ready)
        found = forecast(ready)
        show(found)
        plan = {"layers": ready.choice.layers, "dense": ready.choice.dense}
        return {"components": component_rows(ready), **plan, "forecast": found.model_dump()}
    with artifact.alone(request.out):
        report = _compress(request, command)
    report["seconds"] = time.monotonic() - began  # not in the folder: the same work makes the same bytes
    broken = report["contract"]["broken"]
    if broken:
        raise ContractBroken(
            f"The compressed model in {request.out} breaks the contract: {'; '.join(broken)}.",
            way_out(request, report),
        )
    return report


def _compress(request: HubRequest, command: str) -> dict[str, Any]:
    """The work itself; the report of the folder that stands there when it is done."""
    ready = prepare(request)
    show_choice(ready)
    made_from = identity(request, ready)
    if artifact.existing(request.out, made_from):
        console.say(f"{request.out} is whole already")
        shutil.rmtree(
            work_folder(request.out), ignore_errors=True
        )  # a kill right after the folder was published leaves it
        report: dict[str, Any] = json.loads((request.out / REPORT).read_text(encoding="utf-8"))
        return report
    journal = Journal(work_folder(request.out), made_from)
    if ready.plan is not None:
        artifact.write_file(journal.work / PLAN, plans.write_plan(ready.plan).encode())
    asked = conditions(ready.held_out)
    with console.stage("answers of the original"):
        before = answers(lambda inputs: ready.stream.model(**inputs), ready.held_out, asked)
    covered, recoveries = run_driver(ready, journal)
    coverage.show(covered)
    finished = recovered(request, ready, journal) if request.recover else journal
    scales = cache_of(request, ready)
    with console.stage("answers of the compressed model"):
        after = answers(lambda inputs: ready.stream.model(**inputs), ready.held_out, asked)
    agreement = compare(before, after, seed=request.seed) if ready.held_out else None
    report = build(request, ready, finished, covered, agreement, command)
    report["recovered_from"] += recoveries
    with (
        console.stage("write the folder"),
        artifact.publish(request.out, made_from, needs=ready.folder.bytes, held=True) as staging,
    ):
        write(staging, request, ready, finished, scales, report, write_card(request, ready, report, command))
    journal.clear()
    show_outcome(report)
    return report


def cache_of(request: HubRequest, ready: Prepared) -> dict[str, Tensor]:
    """Scales for a cache of keys and values, where one is asked for; from then on the model runs with such a cache."""
    if request.kv_cache is None:
        return {}
    scales = observe(ready.stream.model, ready.used, request.kv_cache)
    round_caches(ready.stream.model, scales, request.kv_cache)
    return scales


def run_driver(ready: Prepared, journal: Journal) -> tuple[list[Coverage], list[str]]:
    """Round everything, with less at a time where memory does not suffice; what reached which component, what was recovered from.

    Blocks that are finished by then stay as they are.

    Raises:
        Stopped: the least that can be done at a time is too much.
    """
    recoveries: list[str] = []
    offload = Offload(journal.work / "waiting", WAITING_BYTES)
    for batches, where, less in (
        (ready.used, nullcontext(), "samples one by one"),
        (ready.apart, nullcontext(), "what they hold on disk while they wait"),
        (ready.apart, offload, None),
    ):
        try:
            with where:
                return _round(ready, batches, journal), recoveries
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        gc.collect()  # what the abandoned walk held
        if less:
            recoveries.append(f"memory did not suffice after {len(journal)} blocks; from there on {less}")
            console.warn(f"Memory does not suffice. Going on with {less}.")
    raise Stopped(
        f"Memory does not suffice to round the next block, with {len(journal)} finished, even for one sample at a time.",
        "Allow more (--memory), or write another folder with fewer or shorter rows (--rows, --length).",
    )


def _round(ready: Prepared, batches: Sequence[ModelBatch], journal: Journal) -> list[Coverage]:
    """One walk with progress: block k of n, SQNR, time left, memory."""
    blocks = {ready.work.block_of(name) for name in ready.work.schemes}
    positions: dict[str, dict[int, int]] = {}
    component = ""

    def watch(group: Group, stop: Stop) -> None:
        nonlocal component
        return_memory()
        component = ready.choice.component[group.names[0]]
        at = positions.setdefault(component, {})
        for number, x in stop.inputs.items():
            at.setdefault(number, x.numel() // x.shape[-1])

    with console.progress("compress", len(blocks), unit="block") as advance:
        try:
            for finished in drive(ready.stream, batches, ready.work, journal, watch):
                worst = min(note["sqnr_db"] for note in finished.notes.values())
                advance(1, note=f"{finished.block} {worst:.0f} dB, {console.human_bytes(resident_bytes())} resident")
        except NumericsError as error:
            raise NumericsError(f"{component}: {error.what}", error.next) from error
    return counted(ready.parts, positions, batches)


def identity(request: HubRequest, ready: Prepared) -> dict[str, artifact.JSON]:
    """What the result is made from."""
    return {
        "model": fingerprint(ready.folder),
        "data": ready.calibration.sha256,
        "layers": hashlib.sha256(
            json.dumps({n: s.model_dump() for n, s in ready.work.schemes.items()}, sort_keys=True).encode()
        ).hexdigest(),
        "migration": None if ready.work.migration is None else ready.work.migration.kind,
        "modality_weights": dict(ready.work.modality_weights),
        "rows": request.rows,
        "check": request.check,
        "recover": request.recover,
        "kv_cache": request.kv_cache,
        "seed": request.seed,
    }

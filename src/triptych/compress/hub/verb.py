"""`triptych compress` for a Hugging Face folder: choose by component, round block by block from disk, write, compare.

The model is never in memory as a whole; the original and the compressed model are compared by streaming both.
"""

import ctypes
import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from triptych import artifact, console
from triptych.compress import coverage
from triptych.compress.coverage import Coverage, counted
from triptych.compress.driver import Group, drive
from triptych.compress.hub.preflight import forecast, show
from triptych.compress.hub.prepare import HubRequest, Prepared, prepare
from triptych.compress.hub.recovery import recovered
from triptych.compress.hub.tell import build, component_rows, show_choice, show_outcome, write_card
from triptych.compress.hub.write import REPORT, write
from triptych.compress.journal import Journal
from triptych.compress.lockstep import Stop
from triptych.errors import ContractBroken
from triptych.evaluate.agreement import answers, compare, conditions
from triptych.models.folder import ModelFolder

M_MMAP_THRESHOLD = -3  # malloc.h


def compress_folder(request: HubRequest, *, command: str, dry_run: bool = False) -> dict[str, Any]:
    """Compress a folder into another, and compare the two on held-out rows.

    Raises:
        ContractBroken: a promise was asked for and is not kept; the folder and its report are written all the same.
    """
    began = time.monotonic()
    return_memory()
    ready = prepare(request)
    show_choice(ready)
    if dry_run:
        found = forecast(ready)
        show(found)
        plan = {"layers": ready.choice.layers, "dense": ready.choice.dense}
        return {"components": component_rows(ready), **plan, "forecast": found.model_dump()}
    made_from = identity(request, ready)
    if artifact.existing(request.out, made_from):
        console.say(f"{request.out} is whole already")
        shutil.rmtree(
            work_folder(request.out), ignore_errors=True
        )  # a kill right after the folder was published leaves it
        report: dict[str, Any] = json.loads((request.out / REPORT).read_text(encoding="utf-8"))
        return report
    journal = Journal(work_folder(request.out), made_from)
    asked = conditions(ready.held_out)
    with console.stage("answers of the original"):
        before = answers(lambda inputs: ready.stream.model(**inputs), ready.held_out, asked)
    covered = run_driver(ready, journal)
    coverage.show(covered)
    finished = recovered(request, ready, journal) if request.recover else journal
    with console.stage("answers of the compressed model"):
        after = answers(lambda inputs: ready.stream.model(**inputs), ready.held_out, asked)
    agreement = compare(before, after, seed=request.seed) if ready.held_out else None
    report = build(request, ready, finished, covered, agreement, command)
    with (
        console.stage("write the folder"),
        artifact.publish(request.out, made_from, needs=ready.folder.bytes) as staging,
    ):
        write(staging, request.model, ready, finished, report, write_card(request, ready, report, command))
    journal.clear()
    show_outcome(report)
    report["seconds"] = time.monotonic() - began  # not in the folder: the same work makes the same bytes
    broken = report["contract"]["broken"]
    if broken:
        raise ContractBroken(
            f"The compressed model in {request.out} breaks the contract: {'; '.join(broken)}.",
            "Give the component with the lowest SQNR more bits (--components), or promise less (--keep).",
        )
    return report


def return_memory() -> None:
    """Have the C library give large blocks back to the system when they are freed (glibc; elsewhere nothing happens).

    It would keep blocks of up to 32 MB in its heap once some were freed: weights that come and go by the hundred then leave
    holes that stay resident, 1.6 GB of them for a 2B model.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, 1 << 20)


def work_folder(out: Path) -> Path:
    """Where the finished blocks of an unfinished folder lie."""
    return out.with_name(f".{out.name}.work")


def run_driver(ready: Prepared, journal: Journal) -> list[Coverage]:
    """Round everything with progress: block k of n, SQNR, time left, memory; what reached which component."""
    blocks = {ready.work.block_of(name) for name in ready.work.schemes}
    positions: dict[str, dict[int, int]] = {}

    def watch(group: Group, stop: Stop) -> None:
        at = positions.setdefault(ready.choice.component[group.names[0]], {})
        for number, x in stop.inputs.items():
            at.setdefault(number, x.numel() // x.shape[-1])

    with console.progress("compress", len(blocks), unit="block") as advance:
        for finished in drive(ready.stream, ready.used, ready.work, journal, watch):
            worst = min(note["sqnr_db"] for note in finished.notes.values())
            advance(1, note=f"{finished.block} {worst:.0f} dB, {console.human_bytes(resident_bytes())} resident")
    return counted(ready.parts, positions, ready.used)


def resident_bytes() -> int:
    """Bytes of this process that are in memory now."""
    with Path("/proc/self/statm").open(encoding="ascii") as stream:
        return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def identity(request: HubRequest, ready: Prepared) -> dict[str, artifact.JSON]:
    """What the result is made from."""
    return {
        "model": fingerprint(ready.folder),
        "data": ready.calibration.sha256,
        "layers": hashlib.sha256(
            json.dumps({n: s.model_dump() for n, s in ready.work.schemes.items()}, sort_keys=True).encode()
        ).hexdigest(),
        "rows": request.rows,
        "check": request.check,
        "recover": request.recover,
        "seed": request.seed,
    }


def fingerprint(folder: ModelFolder) -> str:
    """A checksum of the config and of every tensor's place, and of size and time of every shard: cheap at any size."""
    digest = hashlib.sha256((folder.path / "config.json").read_bytes())
    for name, entry in sorted(folder.entries.items()):
        digest.update(f"{name} {entry.dtype} {entry.shape} {entry.start}".encode())
    for file in sorted({entry.file for entry in folder.entries.values()}):
        status = file.stat()
        digest.update(f"{file.name} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()

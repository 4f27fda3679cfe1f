"""What the fault tests interrupt: four ways of saving, each with what must stand before and after it.

Run as a program it kills itself (``kill -9``) before each step of one of them, or lets eight processes race for one
output. It is a program of its own because the test process has grown threads, and forking those is not safe.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from triptych import artifact, durable
from triptych.errors import ArtifactError

IDENTITY = {"recipe": {"seed": 1}}


def fill(folder: Path, version: int) -> None:
    """Three files that belong together: a set that mixes versions is broken."""
    (folder / "processor").mkdir()
    for name in ("a.bin", "b.bin", "processor/c.bin"):
        (folder / name).write_bytes(version.to_bytes(4) * 2000)


def version_of(folder: Path) -> int:
    """The version that all files agree on."""
    artifact.verify(folder)
    (content,) = {path.read_bytes() for path in folder.rglob("*.bin")}
    return int.from_bytes(content[:4])


def save_model(out: Path, version: int) -> None:
    if not artifact.existing(out / "model", IDENTITY):
        with artifact.publish(out / "model", IDENTITY) as staging:
            fill(staging, version)


def model_version(out: Path) -> int:
    return version_of(out / "model") if artifact.existing(out / "model", IDENTITY) else 0


def save_generation(out: Path, version: int) -> None:
    artifact.save_generation(out / "steps", f"step-{version}", lambda staging: fill(staging, version), keep=1)


def generation_version(out: Path) -> int:
    latest = artifact.latest_generation(out / "steps")
    return version_of(latest) if latest else 0


def save_file(out: Path, version: int) -> None:
    artifact.write_file(out / "made" / "report.json", json.dumps({"version": version, "pad": "x" * 9000}))


def file_version(out: Path) -> int:
    path = out / "made" / "report.json"
    return json.loads(path.read_text())["version"] if path.exists() else 0


def save_everything(out: Path, version: int) -> None:
    save_generation(out, version)
    save_file(out, version)
    save_model(out / str(version), version)


def leave_rubbish(out: Path) -> None:
    """What processes killed in the middle of each of these have left."""
    for folder in (".model.staging-1", "steps/.step-2.staging-1", "steps/.step-1.staging-77"):
        (out / folder / "processor").mkdir(parents=True)
        (out / folder / "a.bin").write_bytes(b"half")
    (out / "made").mkdir(exist_ok=True)
    for file in (".model.lock", "steps/.step-2.lock", "made/.report.json.staging-1", "made/.report.json.lock"):
        (out / file).write_bytes(b"")


class Scenario(NamedTuple):
    save: Callable[[Path, int], None]
    version: Callable[[Path], int]  # 0 where nothing stands, an exception where what stands is not whole
    had_one: bool  # whether version 1 stands already when version 2 is saved
    rubbish: bool = False

    def prepare(self, out: Path) -> None:
        out.mkdir(parents=True)
        if self.had_one:
            self.save(out, 1)
        if self.rubbish:
            leave_rubbish(out)


SCENARIOS = {
    "first artifact": Scenario(save_model, model_version, had_one=False),
    "artifact after a kill": Scenario(save_model, model_version, had_one=False, rubbish=True),
    "first generation": Scenario(save_generation, generation_version, had_one=False),
    "next generation": Scenario(save_generation, generation_version, had_one=True),
    "generation after a kill": Scenario(save_generation, generation_version, had_one=True, rubbish=True),
    "first file": Scenario(save_file, file_version, had_one=False),
    "next file": Scenario(save_file, file_version, had_one=True),
}


def stopping(at: int, stop: Callable[[str], None]) -> Callable[[str], None]:
    """A `durable._before` that calls `stop` before the step of this number, counted from 0."""
    seen = 0

    def before(step: str) -> None:
        nonlocal seen
        seen += 1
        if seen == at + 1:
            stop(step)

    return before


def leftovers(out: Path) -> list[str]:
    return [path.name for path in out.rglob(".*")]


def kill_before_every_step(scenario: Scenario, out: Path) -> dict[str, list[int]]:
    """For each step: the version found after the kill, and after the same command ran again."""
    killed, again = [], []
    for at in range(200):
        place = out / str(at)
        scenario.prepare(place)
        child = os.fork()
        if child == 0:
            durable._before = stopping(at, lambda _: os.kill(os.getpid(), signal.SIGKILL))
            scenario.save(place, 2)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return {"killed": killed, "again": again}
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        killed.append(scenario.version(place))
        scenario.save(place, 2)
        again.append(scenario.version(place))
        assert scenario.rubbish or leftovers(place) == [], (at, leftovers(place))
    raise AssertionError("the steps have no end")


def race(out: Path, writers: int = 8) -> dict[int, str]:
    """Let processes save one model at the same moment: the message of each one's error, or "won"."""
    reading, writing = os.pipe()
    children = {}
    for number in range(1, writers + 1):
        tell, told = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # returns in all of them when the parent closes the other end
            message = "won"
            try:
                with artifact.publish(out / "model", IDENTITY) as staging:
                    fill(staging, number)
                    time.sleep(0.002 * (number % 3))
            except ArtifactError as error:
                message = str(error)
            os.write(told, message.encode())
            os._exit(0)
        os.close(told)
        children[number] = tell
    os.close(reading)
    os.close(writing)
    messages = {number: os.fdopen(tell).read() for number, tell in children.items()}
    for _ in children:
        os.wait()
    return messages


def main() -> None:
    verb, out = sys.argv[1], Path(sys.argv[2])
    if verb == "kill":
        print(json.dumps(kill_before_every_step(SCENARIOS[sys.argv[3]], out)))
    elif verb == "race":
        rounds = []
        for number in range(int(sys.argv[3])):
            (out / str(number)).mkdir()
            rounds.append(race(out / str(number)))
        print(json.dumps(rounds))
    elif verb == "forever":
        for version in itertools.count(int(sys.argv[3])):
            save_everything(out, version)
            print(version, flush=True)


if __name__ == "__main__":
    main()

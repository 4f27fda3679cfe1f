"""Every lock, write, fsync, rename and removal is a point at which a process may die. Each of them is tried."""

import json
import subprocess
import sys
from pathlib import Path

import publishing
import pytest

from triptych import durable

PROGRAM = Path(publishing.__file__)


@pytest.mark.parametrize("name", publishing.SCENARIOS)
def test_killed_before_every_step(name, place):
    run = subprocess.run([sys.executable, PROGRAM, "kill", place, name], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    old = 1 if publishing.SCENARIOS[name].had_one else 0
    assert len(found["killed"]) >= 5
    assert found["killed"][0] == old
    assert found["killed"][-1] == 2  # the last step comes after the rename
    assert found["killed"] == sorted(found["killed"]), "once the new one stands, it stays"
    assert set(found["killed"]) == {old, 2}
    assert set(found["again"]) == {2}


@pytest.mark.parametrize("name", publishing.SCENARIOS)
def test_an_exception_before_every_step(name, place, monkeypatch):
    scenario = publishing.SCENARIOS[name]
    old = 1 if scenario.had_one else 0

    def stop(step):
        raise KeyboardInterrupt(step)

    for at in range(200):
        out = place / str(at)
        scenario.prepare(out)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "_before", publishing.stopping(at, stop))
            try:
                scenario.save(out, 2)
            except KeyboardInterrupt:
                finished = False
            else:
                finished = True
        assert scenario.version(out) in {old, 2}
        if scenario.version(out) == old and not scenario.rubbish:
            assert publishing.leftovers(out) == [], "an exception, unlike a kill, leaves nothing behind"
        scenario.save(out, 2)
        assert scenario.version(out) == 2
        if finished:
            break
    assert at >= 5


def test_everything_is_on_the_disk_before_the_rename(place, monkeypatch):
    steps = []
    monkeypatch.setattr(durable, "_before", steps.append)
    publishing.save_model(place, 1)
    renames = [i for i, step in enumerate(steps) if step.startswith("rename")]
    assert len(renames) == 1
    staging = steps[renames[0]].split()[1]
    flushed = steps[: renames[0]]
    for name in ("a.bin", "b.bin", "c.bin", "processor", "manifest.json", staging):
        assert f"fsync {name}" in flushed
    assert flushed.index("write manifest.json") > flushed.index("fsync c.bin")
    assert steps[-1] == f"fsync {place.name}"

"""A full disk and a lost permission: nothing is lost, nothing is left over, and the message says what and how much."""

import errno
import os
import subprocess
import sys

import publishing
import pytest

from triptych import artifact, durable
from triptych.errors import InputError, Stopped


@pytest.mark.parametrize("name", publishing.SCENARIOS)
def test_a_disk_that_is_full_at_every_step(name, place, monkeypatch):
    scenario = publishing.SCENARIOS[name]
    old = 1 if scenario.had_one else 0

    def full(step):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for at in range(200):
        out = place / str(at)
        scenario.prepare(out)
        with monkeypatch.context() as patch:
            patch.setattr(durable, "_before", publishing.stopping(at, full))
            try:
                scenario.save(out, 2)
            except Stopped as error:
                stopped = error
            else:
                break
        assert str(out) in str(stopped)
        assert "No space left on device" in str(stopped)
        assert "bytes are free. Nothing was lost; make room and run the same command again." in str(stopped)
        assert stopped.exit_code == 75
        assert scenario.version(out) in {old, 2}
        if scenario.version(out) == old and not scenario.rubbish:
            assert publishing.leftovers(out) == []
        scenario.save(out, 2)
        assert scenario.version(out) == 2
    assert at >= 5


LIMITED = """
import json, random, resource, sys
from pathlib import Path
import numpy, safetensors.numpy
from triptych import artifact
from triptych.errors import Stopped

out, seed = Path(sys.argv[1]), random.Random(0)
artifact.save_generation(out / "steps", "step-1", lambda folder: (folder / "a.bin").write_bytes(b"1" * 5000))
messages = []
for trial in range(50):
    limit = seed.randrange(1, 60_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    def write(folder):
        if trial % 2:
            safetensors.numpy.save_file({"x": numpy.ones(8000)}, folder / "x.safetensors")
        else:
            (folder / "a.bin").write_bytes(b"2" * 64_000)
    try:
        artifact.save_generation(out / "steps", "step-2", write)
    except Stopped as error:
        messages.append(str(error))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert artifact.latest_generation(out / "steps").name == "step-1"
    assert [path.name for path in out.rglob(".*")] == []
artifact.save_generation(out / "steps", "step-2", write)
assert artifact.latest_generation(out / "steps").name == "step-2"
print(json.dumps(messages))
"""


def test_files_that_may_not_grow_stop_at_any_offset(place):
    """A limit that the kernel enforces in the middle of a write, in Python's own writes and in those of safetensors."""
    run = subprocess.run([sys.executable, "-c", LIMITED, place], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count(f"{place}/steps/step-2 could not be written: File too large; ") == 50


def test_too_little_space_is_told_before_the_work(place):
    with (
        pytest.raises(
            Stopped, match=r"model could not be written: No space left on device; it needs at least 9{18} bytes"
        ),
        artifact.publish(place / "model", {}, needs=int("9" * 18)),
    ):
        pytest.fail("the work has begun")
    assert list(place.iterdir()) == []


def published_with(place, error):
    """What becomes of an error in the middle of publishing."""
    with artifact.publish(place / "model", {}):
        raise error


def test_a_disk_that_is_full_elsewhere_is_named(place):
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/elsewhere/scratch")
    with pytest.raises(Stopped, match=r"model could not be written: No space left on device at /elsewhere/scratch; "):
        published_with(place, error)
    assert list(place.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS])
def test_a_permission_that_is_lost_on_the_way(number, place):
    error = OSError(number, os.strerror(number), str(place / f".model.staging-{os.getpid()}" / "weights"))
    with pytest.raises(InputError, match=rf"{place}/model cannot be written: {os.strerror(number)}\. Choose another"):
        published_with(place, error)
    assert list(place.iterdir()) == []


def test_a_read_only_folder(place):
    place.chmod(0o500)
    if os.access(place, os.W_OK):
        pytest.skip("this user may write everywhere")
    for save in (publishing.save_model, publishing.save_generation, publishing.save_file):
        with pytest.raises(InputError, match=r"cannot be written: Permission denied"):
            save(place, 1)
    place.chmod(0o700)


def test_an_unreadable_input_is_not_an_unwritable_output(place):
    with pytest.raises(PermissionError, match=r"photo\.png"):
        published_with(place, PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place / "photo.png")))
    with pytest.raises(PermissionError):
        published_with(place, PermissionError(errno.EPERM, os.strerror(errno.EPERM)))
    assert list(place.iterdir()) == []

import fcntl
import json
import subprocess
import sys
import threading

import publishing
import pytest

from triptych import artifact, durable
from triptych.errors import ArtifactError

ROUNDS = 20


def test_of_eight_processes_one_wins_and_seven_are_told(place):
    run = subprocess.run(
        [sys.executable, publishing.__file__, "race", place, str(ROUNDS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    rounds = json.loads(run.stdout)
    assert len(rounds) == ROUNDS
    for number, messages in enumerate(rounds):
        winners = [int(writer) for writer, message in messages.items() if message == "won"]
        losers = [message for message in messages.values() if message != "won"]
        target = place / str(number) / "model"
        assert len(winners) == 1
        assert len(losers) == 7
        assert publishing.model_version(target.parent) == winners[0]
        assert publishing.leftovers(target.parent) == []
        for message in losers:
            assert str(target) in message
            assert "is being written by another process" in message or "already holds" in message


def test_threads_are_writers_too(place):
    with (
        artifact.publish(place / "model", {}) as staging,
        pytest.raises(ArtifactError, match=r"model is being written by another process\. Wait until it is done"),
        artifact.publish(place / "model", {}),
    ):
        pytest.fail("two writers")
    assert not staging.exists()
    artifact.verify(place / "model")


def test_the_lock_of_a_removed_file_is_no_lock(place, monkeypatch):
    """A writer that opened the lock file just before its holder removed it must not think that it holds the lock."""
    real, calls = fcntl.flock, []

    def late(handle, operation):
        calls.append(operation)
        if len(calls) == 1:
            (place / ".model.lock").unlink()
        real(handle, operation)

    monkeypatch.setattr("triptych.durable.fcntl.flock", late)
    with (
        durable.lock(place / "model", wait=False),
        pytest.raises(ArtifactError, match="being written"),
        durable.lock(place / "model", wait=False),
    ):
        pytest.fail("two writers")


def test_writers_of_one_file_wait_for_each_other(place):
    contents = [bytes([65 + i]) * 20000 for i in range(8)]
    threads = [threading.Thread(target=artifact.write_file, args=(place / "log", content)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (place / "log").read_bytes() in contents
    assert [path.name for path in place.iterdir()] == ["log"]

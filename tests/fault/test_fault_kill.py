"""``kill -9`` of a process that never stops saving, at moments that nobody chose."""

import random
import shutil
import subprocess
import sys
import time

import publishing

KILLS = 20


def check(out, said):
    """What stands is whole, and is what was last said to be saved, or what came next."""
    assert publishing.generation_version(out) in {said, said + 1}
    assert publishing.file_version(out) in {said, said + 1}
    models = {int(folder.name): publishing.model_version(folder) for folder in out.iterdir() if folder.name.isdigit()}
    assert models.pop(said + 1, 0) in {0, said + 1}
    assert models[said] == said
    assert all(version == number for number, version in models.items())
    for number in models:
        shutil.rmtree(out / str(number))


def test_twenty_kills(place):
    moments = random.Random(0)  # noqa: S311 - moments, not secrets
    said = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            [sys.executable, publishing.__file__, "forever", place, str(said + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = [process.stdout.readline()]  # it has started
        time.sleep(moments.uniform(0, 0.03))
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        said = int(lines[-1])
        check(place, said)

    assert said >= KILLS
    publishing.save_everything(place, said + 1)
    assert publishing.leftovers(place) == [], "the next start removes what the killed ones left"

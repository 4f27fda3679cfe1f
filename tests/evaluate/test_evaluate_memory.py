import sys

import pytest

from triptych.errors import InputError, TriptychError
from triptych.evaluate.memory import peak_memory, resident_peak

MB = 2**20


def holding(megabytes, then=""):
    return [sys.executable, "-c", f"x = bytearray(b'x') * ({megabytes} * 2**20); del x; {then}"]


def test_what_a_command_holds_is_measured():
    assert 58 * MB <= peak_memory(holding(60)) <= 64 * MB


def test_a_peak_that_is_over_counts():
    assert peak_memory(holding(60, then="import time; time.sleep(0.05)")) >= 58 * MB


def test_nothing_above_the_baseline_is_nothing():
    assert peak_memory([sys.executable, "-c", "pass"], baseline=holding(40)) == 0
    assert 18 * MB <= peak_memory(holding(60), baseline=holding(40)) <= 22 * MB


def test_the_size_of_this_process_is_not_in_it():
    ours = bytearray(b"x") * (200 * MB)
    assert resident_peak([sys.executable, "-c", "pass"]) < 40 * MB
    assert len(ours) == 200 * MB


def test_it_is_the_mark_that_the_kernel_shows():
    code = (
        "x = bytearray(b'x') * (50 * 2**20); del x\n"
        "import re, sys\n"
        "mark = int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
        "sys.exit(0 if 50 * 2**20 < mark < 75 * 2**20 else 1)"
    )
    assert 50 * MB < resident_peak([sys.executable, "-c", code]) < 75 * MB


def test_a_command_that_fails_is_told_with_its_words():
    with pytest.raises(
        TriptychError, match=r"measure failed: (?s:.*)no weights here(?s:.*)Run it by itself to see why"
    ):
        peak_memory([sys.executable, "-c", "raise SystemExit('no weights here')"])
    with pytest.raises(TriptychError, match="failed"):
        peak_memory([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])


def test_a_command_that_is_not_there():
    with pytest.raises(InputError, match=r"did not run: /no/such/program cannot be started: No such file or directory"):
        peak_memory(["/no/such/program"])

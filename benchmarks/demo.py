"""The demo as a stranger runs it: a fresh process, timed, with its peak memory."""

import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import record

OUT = Path("runs/demo")


def main() -> None:
    """Run it from nothing and keep the report's figures."""
    shutil.rmtree(OUT, ignore_errors=True)
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "triptych", "demo", "--out", str(OUT)], check=False)
    seconds = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    report = json.loads((OUT / "report.json").read_text())
    kept = ("before", "after", "ratio", "contract", "engines", "components", "attempts")
    record.write(
        "demo", {"exit_code": done.returncode, "seconds": seconds, "peak_bytes": peak, **{k: report[k] for k in kept}}
    )


if __name__ == "__main__":
    main()

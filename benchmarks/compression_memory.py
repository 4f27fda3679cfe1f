"""Peak memory of compressing a model that is larger than what may be resident: every linear layer to 4 bits, towers included.

Random weights of a real geometry, a few samples with pictures. Peak resident bytes of the whole command, less those of an
interpreter that has imported the same libraries.

    python -m benchmarks.compression_memory [qwen2_vl_2b qwen2_vl_7b]
"""

import json
import shutil
import sys
import time
from pathlib import Path

from benchmarks import geometry, record
from triptych.evaluate.memory import resident_peak

GEOMETRY = Path("/tmp/geometry")  # noqa: S108
WORK = Path(__file__).parents[1] / "runs" / "memory"
LIBRARIES = "import torch, transformers, triptych.cli, triptych.compress.hub.verb, triptych.compress.quantize.gptq"


def main() -> None:
    """Measure the models that were named."""
    rows = {row["model"]: row for row in record.read("compression_memory").get("rows", [])}
    for name in sys.argv[1:] or ["qwen2_vl_2b"]:
        model = GEOMETRY / name
        getattr(geometry, name)(model)
        out = WORK / name
        shutil.rmtree(out, ignore_errors=True)
        scheme = ["--component", "*=w4g64", "--component", "*embedding=fp32", "--component", "head=fp32"]
        command = [sys.executable, "-m", "triptych", "compress", str(model), "--data", f"{model}.safetensors"]
        command += ["--rows", "4", "--check", "0", *scheme, "--out", str(out)]
        began = time.monotonic()
        peak = resident_peak(command)
        seconds = time.monotonic() - began
        floor = resident_peak([sys.executable, "-c", LIBRARIES])
        report = json.loads((out / "report.json").read_text())
        rows[name] = {
            "model": name,
            "bytes_before": report["before"]["bytes"],
            "bytes_after": report["after"]["bytes"],
            "peak_bytes": peak,
            "peak_above_libraries": peak - floor,
            "seconds": seconds,
            "samples": 4,
        }
        record.write("compression_memory", {"rows": list(rows.values())})


if __name__ == "__main__":
    main()

"""Several `triptych` commands in one process, as each would run alone: `python -m benchmarks.fidelity.commands JOBS.json`."""

import json
import sys
import traceback
from pathlib import Path

import torch
from typer.main import get_command

from triptych.cli import app

if __name__ == "__main__":
    torch.set_num_threads(1)
    command = get_command(app)
    for words in json.loads(Path(sys.argv[1]).read_text()):
        try:
            command(words, standalone_mode=False)
        except Exception:  # noqa: BLE001 - the one who asked sees that there is no folder
            traceback.print_exc()

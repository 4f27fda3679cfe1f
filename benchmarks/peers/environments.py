"""An environment of its own for each peer, since their pins collide: `python -m benchmarks.peers.environments PEER... | all`.

A peer is a file of requirements beside this one. Its environment lies in `runs/peers/PEER`, which git ignores, and is made
anew when the requirements change.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "runs" / "peers"
# llama.cpp is distributed as source: compiled on this machine, for this processor.
BUILD = {"CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF", "CMAKE_BUILD_PARALLEL_LEVEL": "1"}


def peers() -> list[str]:
    """The peers that have requirements."""
    return sorted(path.stem for path in HERE.glob("*.txt"))


def python(peer: str) -> Path:
    """The interpreter of a peer's environment."""
    return ENVIRONMENTS / peer / "bin" / "python"


def ready(peer: str) -> bool:
    """Whether the environment was made, to its end, from the requirements as they are now."""
    mark = ENVIRONMENTS / peer / "requirements.txt"
    return mark.exists() and mark.read_text() == (HERE / f"{peer}.txt").read_text()


def make(peer: str) -> Path:
    """Create the environment unless it is ready, and return its interpreter.

    Raises:
        FileNotFoundError: No requirements bear that name.
        subprocess.CalledProcessError: pip failed.
    """
    requirements = HERE / f"{peer}.txt"
    if not requirements.exists():
        raise FileNotFoundError(f"no {requirements.name} among the peers; there are {', '.join(peers())}")
    folder = ENVIRONMENTS / peer
    if not ready(peer):
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        command = [str(python(peer)), "-m", "pip", "install", "--quiet", "-r", str(requirements)]
        subprocess.run(command, check=True, env={**os.environ, **BUILD})
        (folder / "requirements.txt").write_text(requirements.read_text())
    return python(peer)


def main() -> None:
    """Make the environments named on the command line."""
    named = sys.argv[1:] or peers()
    for peer in peers() if named == ["all"] else named:
        print(peer, make(peer))


if __name__ == "__main__":
    main()

"""`triptych demo`: the whole product in small, on the bundled task of the odd one out."""

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

from triptych import console
from triptych.errors import InputError

NAME = "odd_one_out"


def run_demo(out: Path, command: str) -> dict[str, Any]:
    """Make the tables, train, compress, and write the report into `out`. Killed at any moment, the same call continues.

    Raises:
        ContractBroken: the compressed model keeps less than promised; the report is written all the same.
    """
    from triptych.compress.verb import Request, carry_out
    from triptych.recipe import read_recipe
    from triptych.train.run import train_recipe

    data = out / "data"
    with console.stage("unpack the bundled photos, voices and words"):
        make_data(data)
    recipe = read_recipe(bundled("recipes") / f"{NAME}.yaml")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(data)})})
    trained = train_recipe(recipe, out / "model")
    request = Request(
        model=out / "model",
        data=data,
        out=out / "compressed",
        size="5%",
        latency="7%",
        keep="98%",
        keep_modality="95%",
        steps=250,
    )
    return carry_out(request, command=command, log=trained.log)


def make_data(folder: Path) -> None:
    """Write the tables and media of the bundled task, whole or not at all, unless they stand there already."""
    if folder.exists():
        return
    staging = folder.with_name(f".{folder.name}.staging")
    shutil.rmtree(staging, ignore_errors=True)
    bundled_generator().make(staging)
    staging.rename(folder)


def bundled_generator() -> ModuleType:
    """The generator that lies beside the bundled data."""
    path = bundled("examples") / NAME / "make.py"
    spec = importlib.util.spec_from_file_location("triptych_odd_one_out", path)
    if spec is None or spec.loader is None:
        raise InputError(f"The bundled data is not at {path}.", "Install Triptych again.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bundled(what: str) -> Path:
    """The folder `examples` or `recipes`: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).parent
    for root in (package / "bundled", package.parents[1]):
        if (root / what).is_dir():
            return root / what
    raise InputError(f"The bundled {what} are missing from {package}.", "Install Triptych again.")

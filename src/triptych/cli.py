"""The command line: one verb, one short function. Work is imported when a verb runs, so that `--help` stays light."""

import gc
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from triptych import console
from triptych.errors import InputError, Stopped, TriptychError

INTERRUPTED = 130  # what the parser makes of Ctrl-C

app = typer.Typer(
    name="triptych",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Build, train and compress multimodal models, and prove that every modality survived.\n\n"
    "Start with `triptych demo`. With your own table: `triptych check`, `triptych train`, `triptych compress`.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or input, 3 contract broken, 75 stopped but resumable.",
)

DATA = (
    "Table (CSV, TSV, Parquet, JSON lines), folder of tables, folder per class, Hugging Face dataset, or a data set as it "
    "comes: ImageNet, COCO (captions, instances), Flickr8k, Pascal VOC, TIMIT, Kaldi, pictures with masks."
)
Data = Annotated[Path, typer.Option("--data", help=DATA, show_default=False)]
Out = Annotated[
    Path, typer.Option("--out", help="Folder to write; an existing one of another run is never overwritten.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")]


@app.command()
def demo(out: Out = Path("runs/demo"), json: Json = False) -> None:
    """Train, compress and report on the bundled data: which of a photo, a voice and a word is the odd one out?"""
    console.set_mode(json=json)
    from triptych.demo import run_demo

    console.emit(run_demo(out, _command()))


@app.command()
def check(
    data: Annotated[Path, typer.Argument(help=DATA)],
    schema: Annotated[
        Path | None, typer.Option(help="YAML file with `column: kind` or `column: kind:role` lines.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Rows that cannot be read are an error.")] = False,
    json: Json = False,
) -> None:
    """Look at the data before any training: kinds, unreadable files, duplicates across splits, leaks, class counts."""
    console.set_mode(json=json)
    from triptych.data.check import check as check_tables
    from triptych.data.schema import read_schema
    from triptych.data.show import show
    from triptych.data.splits import read_splits

    splits = read_splits(data, target=target, overrides=read_schema(schema) if schema else None)
    report = check_tables(splits.tables, splits.schema)
    show(report, splits.schema)
    console.emit(report)
    report.raise_errors(strict=strict)


@app.command()
def train(
    source: Annotated[Path, typer.Argument(help="A recipe (.yaml), or data: then a recipe is chosen for it.")],
    target: Annotated[str | None, typer.Option(help="Column to predict.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data, where the recipe names none or another.")] = None,
    out: Out = Path("runs/model"),
    minutes: Annotated[
        float | None,
        typer.Option(help="Without a recipe: how long everything may take. [default: 10]", show_default=False),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Without a recipe: most memory to be resident (2GB). [default: what is free]", show_default=False
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Rows that cannot be read stop the run.")] = False,
    json: Json = False,
) -> None:
    """Train a model and publish it as a folder. Killed at any moment, the same command continues.

    Without a recipe the kinds of the columns, the number of rows, the minutes and the memory decide on encoders, fusion, sizes and
    schedule; what was chosen and why is printed, and kept as a recipe beside the model.
    """
    console.set_mode(json=json)
    from triptych.compress.amounts import BYTES, parse_amount
    from triptych.recipe import DataSettings, read_recipe
    from triptych.train.run import train_data, train_recipe

    if source.suffix in {".yaml", ".yml"}:
        if minutes is not None or memory is not None:
            raise InputError(
                f"--minutes and --memory choose a recipe, and {source} is one.", "Give data in its place, or neither."
            )
        recipe = read_recipe(source)
        update = {k: v for k, v in {"path": data and str(data), "target": target}.items() if v is not None}
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update=update)})
        trained = train_recipe(recipe, out, strict=strict)
    else:
        import psutil  # type: ignore[import-untyped]

        total = psutil.virtual_memory().total
        most = int(parse_amount(memory, total, BYTES, "memory")) if memory else None
        named = DataSettings(path=str(data or source), target=target)
        trained = train_data(named, out, minutes=10.0 if minutes is None else minutes, memory=most, strict=strict)
    console.say(f"the model is in {out}")
    console.emit({"model": str(out), "sha256": trained.loaded.sha256})


@app.command()
def inspect(
    model: Annotated[Path, typer.Argument(help="Model folder: ours, or any in Hugging Face form.")],
    data: Annotated[
        Path | None,
        typer.Option(help="A table, read by the model's own processor, or safetensors; without it a batch is made up."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run the code that the folder brings. It can do anything you can."),
    ] = False,
    json: Json = False,
) -> None:
    """Show a model's components and layers: roles, modalities, blocks, parameters, bytes, shares of FLOPs and latency."""
    console.set_mode(json=json)
    from triptych.models.show import describe, show

    description = describe(model, data, trust_remote_code=trust_remote_code)
    show(description)
    console.emit(description)


# Of `compress`; all but the first three are for Hugging Face folders alone.
Size = Annotated[
    str | None,
    typer.Option(
        help="Bytes on disk: a share of the original (25%) or an amount (40MB). Of a Hugging Face folder those of its "
        "tensors: every layer is given the bits that serve best, except in components that are named."
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        help="Least share of quality to keep, as a lower 95 % bound (98%; no promise for a Hugging Face folder)."
    ),
]
KeepModality = Annotated[str | None, typer.Option(help="The same for what each modality contributes (95%; likewise).")]
Parts = Annotated[
    list[str] | None,
    typer.Option(
        help="Hugging Face folders: NAME=SCHEME, such as image.encoder=w8a8t, decoder=w4g64, decoder=f8 (FP8) or '*=w8'."
    ),
]
Method = Annotated[
    str, typer.Option(help="Hugging Face folders: how codes are chosen (gptq, gptaq, descent, autoround, hqq, rtn).")
]
Migrate = Annotated[
    Literal["awq", "smooth", "both"] | None,
    typer.Option(
        help="Hugging Face folders: move outliers into the norms before rounding: awq where weights alone are "
        "rounded, smooth where inputs are too (a8t), both."
    ),
]
ModalityWeights = Annotated[
    Literal["auto"] | None,
    typer.Option(
        help="Hugging Face folders: auto tries how much a token of each modality should count, and keeps what answers "
        "held-out samples best."
    ),
]
KvCache = Annotated[
    Literal["fp8", "int8"] | None,
    typer.Option(help="Hugging Face folders: store scales for a cache of keys and values in eight bits."),
]
Recover = Annotated[
    bool,
    typer.Option(
        "--recover", help="Hugging Face folders: train the rounded weights afterwards, the whole model in memory."
    ),
]
Rows = Annotated[int, typer.Option(help="Hugging Face folders: rows to calibrate with.")]
Check = Annotated[int, typer.Option(help="Hugging Face folders: further rows on which the two models are compared.")]
Length = Annotated[int | None, typer.Option(help="Hugging Face folders: most tokens of text in a row.")]
Memory = Annotated[str | None, typer.Option(help="Hugging Face folders: most memory to be resident (3GB).")]


@app.command()
def compress(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Data,
    out: Out = Path("runs/compressed"),
    size: Size = None,
    latency: Annotated[
        str | None, typer.Option(help="One sample: a share of the original in PyTorch (40%) or an amount (5ms).")
    ] = None,
    keep: Keep = None,
    keep_modality: KeepModality = None,
    plan: Annotated[Path | None, typer.Option(help="Carry out this plan instead of searching for one.")] = None,
    component: Parts = None,
    method: Method = "gptq",
    migrate: Migrate = None,
    modality_weights: ModalityWeights = None,
    kv_cache: KvCache = None,
    recover: Recover = False,
    rows: Rows = 128,
    check: Check = 32,
    length: Length = None,
    memory: Memory = None,
    steps: Annotated[int, typer.Option(help="Steps of distillation that heal a narrowed model.")] = 400,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    seed: Annotated[int, typer.Option(help="Of calibration rows and recovery.")] = 0,
    json: Json = False,
) -> None:
    """Make a model smaller and faster, and prove what it kept. Killed at any moment, the same command continues.

    A model that Triptych trained is fitted to a budget. A Hugging Face folder of any size is rounded block by block from disk,
    every component by its own scheme, into a folder that transformers loads.
    """
    console.set_mode(json=json)
    with _imports():
        from triptych.models.folder import is_ours

    if is_ours(model):
        from triptych.compress.verb import Request, carry_out

        asked = {"size": size, "latency": latency, "keep": keep, "keep_modality": keep_modality, "plan": plan}
        given = {name: value for name, value in asked.items() if value is not None}
        request = Request(model=model, data=data, out=out, steps=steps, seed=seed, **given)
        console.emit(carry_out(request, command=_command(), dry_run=dry_run))
        return
    with _imports():
        from triptych.compress.hub.request import HubRequest, read_bytes, read_components, read_share
        from triptych.compress.hub.verb import compress_folder

    if latency is not None:
        raise InputError("--latency is for models that Triptych trained; a folder is fitted to bytes.", "Give --size.")
    wanted = HubRequest(
        model=model,
        data=data,
        out=out,
        components=read_components(component or []),
        plan=plan,
        method=method,
        migrate=migrate,
        modality_weights=modality_weights,
        kv_cache=kv_cache,
        recover=recover,
        rows=rows,
        check=check,
        length=length,
        size=size,
        keep=read_share(keep),
        keep_modality=read_share(keep_modality),
        seed=seed,
        memory=read_bytes(memory),
    )
    console.emit(compress_folder(wanted, command=_command(), dry_run=dry_run))


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Data,
    against: Annotated[Path | None, typer.Option(help="Another model, compared on the same rows.")] = None,
    split: Annotated[str, typer.Option(help="Which rows.")] = "test",
    engine: Annotated[str, typer.Option(help="What runs the model: torch or openvino.")] = "openvino",
    json: Json = False,
) -> None:
    """Measure quality with every modality, without each, and with each shuffled; and the size and speed."""
    console.set_mode(json=json)
    from triptych.evaluate.verb import evaluate_models

    console.emit(evaluate_models(model, data, against=against, split=split, engine=engine))


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Data,
    rows: Annotated[int, typer.Option(help="How many rows are shown, evenly spaced.")] = 12,
    worst: Annotated[
        bool, typer.Option("--worst", help="Show those with the least probability for the truth.")
    ] = False,
    split: Annotated[str, typer.Option(help="Which rows.")] = "test",
    gradients: Annotated[
        Literal["own", "mean"], typer.Option(help="Of the maps: each cell's own (HiResCAM), or their mean (Grad-CAM).")
    ] = "own",
    out: Out = Path("runs/explained"),
    json: Json = False,
) -> None:
    """Show why: what each field gave to an answer, and where in a picture, a sound or a text the model found it."""
    console.set_mode(json=json)
    from triptych.evaluate.explain.verb import Asked, explain_model

    asked = Asked(rows=rows, worst=worst, split=split, gradients=gradients)
    console.emit(explain_model(model, data, out, asked, command=_command()))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    fields: Annotated[
        list[str] | None, typer.Argument(help="FIELD=VALUE of one sample; a field left out is absent.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="A table, all rows of which are answered.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File (.wav, .png) for the sound or pictures that a model makes, with --data a folder; folder for masks, and for pictures "
            "with the mask or the boxes drawn over them."
        ),
    ] = None,
    sample: Annotated[
        bool,
        typer.Option("--sample", help="Draw each word of a written answer in place of looking for the likeliest text."),
    ] = False,
    temperature: Annotated[float, typer.Option(help="Of --sample: above 1 flatter, below 1 steeper.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Of --sample: from so many likeliest words; 0 for all.")] = 0,
    top_p: Annotated[
        float, typer.Option(help="Of --sample: from the likeliest words that have this probability.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(help="Of --sample: the same seed draws the same.")] = 0,
    json: Json = False,
) -> None:
    """Answer one sample, or every row of a table."""
    console.set_mode(json=json)
    from triptych.decoders.search import Sampler
    from triptych.evaluate.predict import predict_fields, predict_table

    if not sample and (temperature, top_k, top_p, seed) != (1.0, 0, 1.0, 0):
        raise InputError("Temperature, top-k, top-p and seed are for words that are drawn.", "Add --sample.")
    sampler = Sampler(temperature, top_k, top_p, seed) if sample else None
    given = (out, sampler)
    console.emit(predict_table(model, data, *given) if data else predict_fields(model, fields or [], *given))


@app.command()
def search(
    model: Annotated[Path, typer.Argument(help="Folder of a model that retrieves: its target is an identity.")],
    field: Annotated[list[str], typer.Argument(help="FIELD=VALUE to start from; media are paths.")],
    data: Data,
    column: Annotated[
        str | None, typer.Option(help="Column that is searched; by default the model's other one.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many are found.")] = 10,
    out: Annotated[
        Path | None, typer.Option(help="Folder that keeps the table's vectors; by default one beside the model.")
    ] = None,
    json: Json = False,
) -> None:
    """Find what in a table belongs to a picture, a sound or some words. The table is read once, then answers take milliseconds."""
    console.set_mode(json=json)
    from triptych.evaluate.search import search as search_table

    console.emit(search_table(model, data, field, column=column, top=top, out=out))


@app.command()
def export(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    to: Annotated[
        str, typer.Option(help="openvino, for models built here; onnx, for language models that write word by word.")
    ] = "openvino",
    out: Out = Path("runs/exported"),
    data: Annotated[
        Path | None,
        typer.Option(
            help="Rows on which the two are compared; for onnx, rows whose pictures its encoder is written for."
        ),
    ] = None,
) -> None:
    """Write the model for another runtime, with our own codes and scales, and check that it answers the same."""
    from triptych.export.verb import export_model

    export_model(model, to, out, data)
    console.say(f"the {to} model is in {out}")


@app.command()
def verify(model: Annotated[Path, typer.Argument(help="Model folder.")]) -> None:
    """Check every byte of a model folder against its manifest."""
    from triptych.artifact import verify as verify_folder

    manifest = verify_folder(model)
    console.say(f"{model} is whole: {len(manifest.files)} files, {console.human_bytes(manifest.size_bytes)}")


def _command() -> str:
    return shlex.join(["triptych", *sys.argv[1:]])


def main() -> NoReturn:
    """Run, and turn every error a person can act on into one paragraph and its exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        result: Any = app(standalone_mode=False)
    except TriptychError as error:
        _fail(str(error), error.exit_code)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except Exception as error:
        _usage(error)
        raise
    if result == INTERRUPTED:
        _fail("Stopped. The same command continues.", Stopped.exit_code)
    sys.exit(result if isinstance(result, int) else 0)


@contextmanager
def _imports() -> Iterator[None]:
    """Libraries make a million objects that stay: no garbage is looked for meanwhile, nor among them afterwards."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _interrupt(*_: Any) -> NoReturn:
    """SIGTERM as Ctrl-C: what is half done is put away, and the exit code says that the command can go on."""
    raise KeyboardInterrupt


def _usage(error: Exception) -> None:
    """Wrong usage is the parser's to explain, in one line, with exit code 2."""
    show = getattr(error, "show", None)
    if show is not None:
        show()
        sys.exit(2)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"triptych: {message}\n")
    sys.exit(code)

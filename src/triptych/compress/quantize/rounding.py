"""Choosing the codes of one weight: the scheme says how, the statistics say what the weight meets."""

from triptych.compress.quantize.activation import Search, observe
from triptych.compress.quantize.grid import Codes
from triptych.compress.quantize.layers import LayerScheme, QuantizedWeight, WeightView
from triptych.compress.quantize.moments import LayerStatistics
from triptych.errors import InputError, NumericsError
from triptych.registry import find


def quantize_weight(
    view: WeightView, scheme: LayerScheme, statistics: LayerStatistics | None = None, *, search: Search = "mse"
) -> QuantizedWeight:
    """Rounds one weight of a model; the model itself is not changed.

    An embedding is rounded to nearest whatever the method: a row is read whole, so its columns cannot make up for each
    other.

    Args:
        view: the weight.
        scheme: grid, method and whether the input is rounded too.
        statistics: what `moments.collect` found; GPTQ and eight-bit inputs need them.
        search: how the range of an eight-bit input is found.

    Raises:
        InputError: the scheme leaves the weight alone, or needs statistics that are missing; the message names the
            weight.
        NumericsError: the weight or its statistics hold NaN or infinity; the message names the weight.
    """
    if scheme.weight is None:
        raise InputError(f"The scheme of {view.name} has no weight grid.", "Leave the weight out, or give it a grid.")
    if scheme.weight.number == "float":
        raise InputError(f"{view.name}: FP8 is for Hugging Face folders; no engine here runs it.", "Use w8 or w8a8.")
    if scheme.activation and view.kind not in ("linear", "convolution"):
        raise InputError(
            f"The input of {view.name} cannot be rounded: only Linear and Conv layers have eight-bit kernels.",
            "Set activation: null.",
        )
    if scheme.calibrated and statistics is None:
        raise InputError(
            f"An eight-bit input of {view.name} needs calibration statistics.", "Collect them with `moments.collect`."
        )
    if not bool(view.matrix.isfinite().all()):
        raise NumericsError(f"{view.name} holds NaN or infinity.", "Train again from the last good checkpoint.")
    method = "rtn" if view.kind == "embedding" else scheme.method
    try:
        codes: Codes = find("quantizer", method)(
            view.matrix, None if statistics is None else statistics.moment, scheme.weight
        )
    except (InputError, NumericsError) as error:
        raise type(error)(f"{view.name}: {error.what}", error.next) from error
    span = None
    if scheme.calibrated and statistics is not None:
        ends = statistics.samples.new_tensor([statistics.low, statistics.high])
        span = observe(statistics.samples if search != "minmax" else ends, search)
    passes = statistics.passes if statistics is not None and span is not None else ()
    return QuantizedWeight(codes, tuple(view.parameter.shape), scheme, span, passes)

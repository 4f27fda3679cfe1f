"""Budgets and promises as people write them: a share such as 25%, or an amount such as 40MB."""

from collections.abc import Mapping

from triptych.errors import InputError

BYTES = {"GB": 1e9, "MB": 1e6, "kB": 1e3, "B": 1.0}


def parse_amount(text: str, whole: float, units: Mapping[str, float], what: str) -> float:
    """A share of `whole` such as 25%, or an amount such as 40MB, as a number.

    Raises:
        InputError: neither; says how to write it.
    """
    raw = text.strip()
    for suffix, factor in {"%": whole / 100, **units}.items():
        if raw.lower().endswith(suffix.lower()):
            number = raw[: -len(suffix)]
            try:
                value = float(number) * factor
            except ValueError:
                continue
            if value > 0:
                return value
    amount = f", or an amount such as 40{next(iter(units))}" if units else ""
    raise InputError(f"{text!r} is not a {what}.", f"Write a share such as 25%{amount}.")

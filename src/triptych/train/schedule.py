"""Learning-rate schedules as pure functions of the step, so that a resumed run needs no scheduler state."""

import math

from triptych.train.settings import ScheduleSettings


def rate(settings: ScheduleSettings, step: int, total: int, history: list[float]) -> float:
    """The learning rate at `step` as a share of its peak.

    Warm-up: (step + 1) / warmup steps. Cosine: floor + (1 - floor) (1 + cos πt) / 2 with t the share of the rest that is done
    (Loshchilov & Hutter 2017, one cycle). Linear: a straight line to the floor. Plateau: `factor` for every `patience`
    evaluations in a row that did not beat the best (`history` holds the validation scores so far, higher is better).
    """
    warmup = round(settings.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    t = (step - warmup) / max(1, total - warmup)
    if settings.name == "cosine":
        curve = 0.5 * (1 + math.cos(math.pi * t))
    elif settings.name == "linear":
        curve = 1 - t
    elif settings.name == "constant":
        return 1.0
    else:
        return max(settings.floor, settings.factor ** plateaus(history, settings.patience))
    return settings.floor + (1 - settings.floor) * curve


def plateaus(history: list[float], patience: int) -> int:
    """How many times `patience` evaluations in a row failed to beat the best before them."""
    best, waited, count = -math.inf, 0, 0
    for score in history:
        if score > best:
            best, waited = score, 0
        else:
            waited += 1
            if waited == patience:
                waited, count = 0, count + 1
    return count


def waited(history: list[float]) -> int:
    """Evaluations since the best one."""
    return len(history) - 1 - history.index(max(history)) if history else 0

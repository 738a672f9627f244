"""Search one parameter at a time, keeping a value unless another one is better by more than the noise.

A score of a few annotated objects is noisy, and the best of many settings is the luckiest one. So a value counts as
worse than the best one only if its mean score over the images is lower by more than `caution` standard errors of the
images' differences, and by more than `min_gain`. The value in use at the start is kept unless it is worse; then the
best is taken. Rounds over all parameters are repeated until one changes nothing.

Numbers are tried from the value in use outwards, up and down, until the score falls: each setting costs a clustering of
all images, and far values are seldom better where near ones are worse.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np


@dataclass
class Trial:
    """One setting that was compared with the one in use.

    Attributes:
        name: parameter that was varied.
        value: its value.
        score: mean over the images.
        gain: mean difference to the setting in use at that moment.
        noise: standard error of that difference, 0 with one image.
        chosen: whether the value was taken.
    """

    name: str
    value: Any
    score: float
    gain: float
    noise: float
    chosen: bool = False


def coordinate_search(
    evaluate: Callable[[dict[str, Any]], np.ndarray],
    space: Mapping[str, Sequence[Any]],
    start: Mapping[str, Any],
    caution: float = 2.0,
    min_gain: float = 0.02,
    max_rounds: int = 3,
    is_over: Callable[[], bool] = lambda: False,
) -> tuple[dict[str, Any], list[Trial]]:
    """Finds a good setting near the one in use.

    Args:
        evaluate: gives the score (images,) of a setting on every image, higher is better, NaN where an image says
            nothing; asked once per setting.
        space: values to try by parameter, in any order.
        start: the setting in use, a value for each parameter of the space.
        caution: standard errors of a difference that say nothing, 0 or more.
        min_gain: difference of the mean scores that says nothing, 0 or more.
        max_rounds: rounds over all parameters at most, 1 or more.
        is_over: asked before each setting whether the time is up; then what was tried so far decides.

    Returns:
        The setting kept, and what was tried, in order.
    """

    @cache
    def scores(**setting: Any) -> np.ndarray:
        return np.asarray(evaluate(setting), dtype=float)

    kept, trials = dict(start), []
    for _ in range(max_rounds):
        before = dict(kept)
        for name, values in space.items():
            current = scores(**kept)
            found = {kept[name]: current}
            for line in _outwards(kept[name], (start[name], *values)):
                highest = float(np.nanmean(current))
                for value in itertools.takewhile(lambda _: not is_over(), line):
                    found[value] = scores(**{**kept, name: value})
                    score = float(np.nanmean(found[value]))
                    if score < highest - min_gain:
                        break
                    highest = max(highest, score)
            if start[name] not in found and not is_over():
                found[start[name]] = scores(**{**kept, name: start[name]})
            best = max(found, key=lambda value: np.nanmean(found[value]))
            choice = best
            if start[name] in found:
                gap, noise = paired_gain(found[best], found[start[name]])
                if gap <= max(min_gain, caution * noise):
                    choice = start[name]
            for value in found:
                if value != kept[name]:
                    score = float(np.nanmean(found[value]))
                    trials.append(Trial(name, value, score, *paired_gain(found[value], current), value == choice))
            kept[name] = choice
        if kept == before or is_over():
            break
    return kept, trials


def _outwards(kept: Any, values: Sequence[Any]) -> list[list[Any]]:
    """Lines of values to try until one is worse: numbers above and below the one in use; others one by one."""
    others = [value for value in dict.fromkeys(values) if value != kept]
    if not are_numbers((kept, *others)):
        return [[value] for value in others]
    return [sorted(v for v in others if v > kept), sorted((v for v in others if v < kept), reverse=True)]


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether values are in an order."""
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def paired_gain(found: np.ndarray, current: np.ndarray) -> tuple[float, float]:
    """Mean and standard error of the differences of scores (images,), over the images in which both say something."""
    difference = (found - current)[~np.isnan(found - current)]
    if len(difference) < 2:
        return float(difference.sum()), 0.0
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))

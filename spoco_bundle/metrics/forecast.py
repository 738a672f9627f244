"""What more annotated objects can be expected to give: a power law through the scores of trainings on fewer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from spoco_bundle.core.errors import SpocoError


@dataclass(frozen=True)
class Forecast:
    """The score that so many annotated objects can be expected to give.

    Attributes:
        objects: number of annotated objects that is asked for.
        score: expected score with them, in [0, 1].
        low: lower end of the interval in which the score of such a training lies.
        high: upper end of it.
        level: probability with which it lies there.
        present: largest number of annotated objects that trained.
        now: score with them, by the curve.
        noise: standard error of a score with them, because only so many objects are held out.
        exponent: b of the curve, error = a * objects ** -b.
    """

    objects: int
    score: float
    low: float
    high: float
    level: float
    present: int
    now: float
    noise: float
    exponent: float

    @property
    def gain(self) -> float:
        """Score that is added."""
        return self.score - self.now


def forecast_score(
    objects: Sequence[float],
    scores: Sequence[float],
    halves: Sequence[Sequence[float]],
    held_out: int,
    wanted: int,
    level: float = 0.9,
) -> Forecast:
    """Fits error = a * objects ** -b to trainings, and goes on to more objects.

    The error is 1 - score, no less than half a held-out object. Its logarithm is fitted by least squares over that of
    the number of objects: trainings on as many objects scatter, by the objects drawn and by the seed, by about the same
    share of their error. A curve that levels off (a * objects ** -b + c) cannot be told from one that does not by a
    few parts of one annotation, so the forecast goes to twice the number at most with any right.

    The interval is the prediction interval of a least-squares line: the scatter of the trainings, one of a score that
    is as coarse as one held-out object at least, and the uncertainty of the line, by Student's t. Added to it is what
    the choice of held-out objects does to the slope: the variance of the slope over random halves of them, which is
    that over sets of as many as there are. They are the same for all trainings, so their level cancels out.

    Args:
        objects: (m,) annotated objects of each training, of at least two different numbers.
        scores: (m,) their scores on the same held-out objects, in [0, 1], higher is better.
        halves: (m, h) the same on random halves of these objects, in an order that all trainings share.
        held_out: number of held-out objects.
        wanted: number of annotated objects to forecast.
        level: probability of the interval.

    Raises:
        SpocoError: for fewer than three trainings, all of one number of objects, or fewer than two held-out objects.
    """
    counts = np.asarray(objects, dtype=float)
    if len(counts) < 3 or len(np.unique(counts)) < 2:
        raise SpocoError("a forecast needs three trainings or more, on at least two numbers of annotated objects")
    if held_out < 2:
        raise SpocoError("a forecast needs two held-out objects or more: annotate more")
    present = counts.max()
    # measured from the present number, so that the intercept is the error now
    line = np.column_stack([np.ones(len(counts)), np.log(counts / present)])
    solve = np.linalg.pinv(line)
    errors = _log_error(np.asarray(scores, dtype=float), held_out)
    at, slope = solve @ errors
    ahead = math.log(wanted / present)
    place = np.array([1.0, ahead])

    freedom = len(counts) - 2
    scatter = float(np.square(errors - line @ [at, slope]).sum()) / freedom
    # rounding to whole objects alone scatters scores by a uniform distribution as wide as one of them
    coarse = (1 / (held_out * math.exp(at))) ** 2 / 12
    of_line = float(place @ np.linalg.inv(line.T @ line) @ place)
    halved = np.asarray(halves, dtype=float)
    slopes = (solve @ _log_error(halved, held_out // 2))[1]
    of_objects = float(np.square(slopes - slope).mean()) * ahead**2
    reach = stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(max(scatter, coarse) * (1 + of_line) + of_objects)

    ahead_error = at + slope * ahead
    last = counts == present
    return Forecast(
        objects=int(wanted),
        score=_score(ahead_error),
        low=_score(ahead_error + reach),
        high=_score(ahead_error - reach),
        level=level,
        present=int(present),
        now=_score(at),
        noise=float(np.sqrt(np.square(halved[last] - np.asarray(scores)[last, None]).mean())),
        exponent=float(-slope),
    )


def _log_error(scores: np.ndarray, held_out: int) -> np.ndarray:
    return np.log(np.maximum(1 - scores, 0.5 / held_out))


def _score(log_error: float) -> float:
    return float(np.clip(1 - math.exp(log_error), 0, 1))

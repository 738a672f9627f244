from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.metrics.forecast import forecast_score

OBJECTS = [25, 50, 100, 25, 50, 100]
SCORES = [0.52, 0.61, 0.70, 0.57, 0.66, 0.69]


def same_halves(scores, count=4):
    return [[score] * count for score in scores]


def test_a_power_law_without_scatter_is_found_and_gone_on_with():
    scores = [1 - 2 * n**-0.5 for n in OBJECTS]
    found = forecast_score(OBJECTS, scores, same_halves(scores), 1000, 200)
    assert found.exponent == pytest.approx(0.5, abs=1e-12)
    assert (found.score, found.now) == pytest.approx((1 - 2 / math.sqrt(200), 0.8), abs=1e-12)
    assert (found.objects, found.present, found.noise) == (200, 100, 0)
    assert found.gain == pytest.approx(0.2 - 2 / math.sqrt(200), abs=1e-12)
    # what is left is the rounding of scores to a thousandth
    assert 0 < found.high - found.low < 0.005


def test_line_and_interval_are_those_of_the_textbook():
    x, y = np.log(OBJECTS), np.log(1 - np.asarray(SCORES))
    line = stats.linregress(x, y)
    residuals = y - line.intercept - line.slope * x
    at = math.log(200)
    variance = (residuals @ residuals) / 4 * (1 + 1 / 6 + (at - x.mean()) ** 2 / np.square(x - x.mean()).sum())
    middle, reach = line.intercept + line.slope * at, stats.t.ppf(0.95, 4) * math.sqrt(variance)
    found = forecast_score(OBJECTS, SCORES, same_halves(SCORES), 1000, 200)
    expected = [1 - math.exp(middle + step * reach) for step in (0, 1, -1)]
    assert [found.score, found.low, found.high] == pytest.approx(expected, rel=1e-10)


def test_the_variance_of_the_slope_over_halves_is_added():
    random = np.random.default_rng(0)
    halves = np.clip(np.asarray(SCORES)[:, None] + random.normal(0, 0.05, (6, 30)), 0, 0.98)
    x = np.log(OBJECTS)
    slope = stats.linregress(x, np.log(1 - np.asarray(SCORES))).slope
    slopes = [stats.linregress(x, np.log(1 - half)).slope for half in halves.T]
    added = np.mean(np.square(np.array(slopes) - slope)) * math.log(2) ** 2

    def squared(found):
        return math.log((1 - found.low) / (1 - found.score)) ** 2

    without, with_them = (forecast_score(OBJECTS, SCORES, h, 1000, 200) for h in (same_halves(SCORES), halves))
    assert squared(with_them) - squared(without) == pytest.approx(stats.t.ppf(0.95, 4) ** 2 * added, rel=1e-9)
    assert with_them.noise == pytest.approx(
        math.sqrt(np.mean(np.square(halves[[2, 5]] - np.asarray(SCORES)[[2, 5], None]))), rel=1e-12
    )


def test_neither_the_unit_of_objects_nor_the_order_of_trainings_matters():
    halves = [[score - 0.05, score + 0.05] for score in SCORES]
    found = forecast_score(OBJECTS, SCORES, halves, 40, 200)
    tenfold = forecast_score([10 * n for n in OBJECTS], SCORES, halves, 40, 2000)
    backwards = forecast_score(OBJECTS[::-1], SCORES[::-1], halves[::-1], 40, 200)
    for other in (tenfold, backwards):
        for name in ("score", "low", "high", "now", "noise", "exponent"):
            assert getattr(other, name) == pytest.approx(getattr(found, name), rel=1e-9)


def test_the_fewer_objects_are_held_out_the_wider_the_interval():
    scores = [0.5] * 6  # which do not scatter, but are as coarse as an object
    reaches = []
    for held_out in (4, 20, 100):
        found = forecast_score(OBJECTS, scores, same_halves(scores), held_out, 200)
        reaches.append(math.log((1 - found.low) / (1 - found.score)) * held_out)
    # 1 / (N e) is the width of an object in the logarithm of the error, 1 / 12 the variance of a uniform distribution
    of_line = 1 + 1 / 6 + (1.5 * math.log(4)) ** 2 / (4 * math.log(2) ** 2 + 4 * math.log(2) ** 2) * 4 / 9
    assert reaches == pytest.approx([stats.t.ppf(0.95, 4) * 2 / math.sqrt(12) * math.sqrt(of_line)] * 3, rel=0.3)
    assert max(reaches) == pytest.approx(min(reaches))


def test_perfect_scores_are_as_good_as_half_an_object_and_say_little():
    found = forecast_score(OBJECTS, [1.0] * 6, same_halves([1.0] * 6), 10, 200)
    assert found.score == pytest.approx(0.95) and found.low < 0.92 and found.high <= 1


def simulated(random, held_out, exponent, scatter):
    """Whether a training on twice the objects ends in the interval: objects of unlike difficulty, found or not."""
    counts = np.array([*OBJECTS, 200])
    error = np.minimum(0.3 * (counts / 100) ** -exponent * np.exp(random.normal(0, scatter, 7)), 0.95)
    difficulty = math.sqrt(0.7) * random.normal(size=held_out) + math.sqrt(0.3) * random.normal(size=(7, held_out))
    missed = difficulty < stats.norm.ppf(error)[:, None]
    halves = [random.permutation(held_out)[: held_out // 2] for _ in range(20)]
    of_halves = [[1 - row[half].mean() for half in halves] for row in missed[:6]]
    scores = 1 - missed.mean(1)
    found = forecast_score(OBJECTS, scores[:6], of_halves, held_out, 200)
    return found.low <= scores[6] <= found.high


@pytest.mark.parametrize(
    ("held_out", "exponent", "scatter"), [(150, 0.0, 0.05), (40, 0.3, 0.05), (150, 0.3, 0.1), (40, 0.6, 0.1)]
)
def test_nine_of_ten_trainings_end_in_the_interval(held_out, exponent, scatter):
    random = np.random.default_rng(0)
    within = np.mean([simulated(random, held_out, exponent, scatter) for _ in range(200)])
    assert 0.82 <= within <= 0.98


@pytest.mark.parametrize(
    ("objects", "held_out", "words"),
    [([25, 50], 9, "three trainings"), ([50] * 6, 9, "two numbers"), (OBJECTS, 1, "two held-out")],
)
def test_what_is_too_little_for_a_forecast_is_refused(objects, held_out, words):
    scores = SCORES[: len(objects)]
    with pytest.raises(SpocoError, match=words):
        forecast_score(objects, scores, same_halves(scores), held_out, 200)

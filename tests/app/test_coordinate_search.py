from __future__ import annotations

import numpy as np
import pytest

from spoco_bundle.app.coordinate_search import coordinate_search, paired_gain

SPACE = {"a": [0, 1, 2, 3], "b": [10, 20, 30]}


def bowl(setting):
    """Best at a = 2, b = 20, on five images of different difficulty."""
    height = 1 - 0.1 * (setting["a"] - 2) ** 2 - 0.001 * abs(setting["b"] - 20)
    return height - np.array([0.0, 0.1, 0.2, 0.3, 0.4])


def test_finds_the_optimum_from_a_start_outside_the_space():
    kept, trials = coordinate_search(bowl, SPACE, {"a": 7, "b": 99}, min_gain=0)
    assert kept == {"a": 2, "b": 20}
    assert [(t.name, t.value) for t in trials if t.chosen] == [("a", 2), ("b", 20)]


def test_every_setting_is_evaluated_once():
    asked = []

    def evaluate(setting):
        asked.append(tuple(setting.values()))
        return bowl(setting)

    coordinate_search(evaluate, SPACE, {"a": 0, "b": 10})
    assert len(asked) == len(set(asked))


def test_a_later_round_uses_what_an_earlier_one_changed():
    def twisted(setting):  # a = 3 pays only once b = 30
        return np.full(3, {(0, 10): 0.0, (0, 30): 0.2, (3, 30): 0.5}.get((setting["a"], setting["b"]), -1.0))

    space = {"a": [0, 3], "b": [10, 30]}
    assert coordinate_search(twisted, space, {"a": 0, "b": 10}, max_rounds=1)[0] == {"a": 0, "b": 30}
    assert coordinate_search(twisted, space, {"a": 0, "b": 10})[0] == {"a": 3, "b": 30}


def test_numbers_are_tried_outwards_until_the_score_falls():
    height = {1: 0.2, 2: 0.5, 3: 0.49, 4: 0.55, 5: 0.4, 6: 0.9}
    asked = []

    def evaluate(setting):
        asked.append(setting["a"])
        return np.full(3, height[setting["a"]])

    kept, trials = coordinate_search(evaluate, {"a": [6, 1, 5, 2, 4, 3]}, {"a": 2}, max_rounds=1)
    assert kept == {"a": 4}
    assert asked == [2, 3, 4, 5, 1], "a dip below the least gain is passed, 6 is behind a real one"
    assert {trial.value: trial.score for trial in trials} == pytest.approx(
        {value: height[value] for value in (1, 3, 4, 5)}
    )


def test_what_is_no_number_is_tried_one_by_one():
    height = {"one": 0.5, "two": 0.1, "three": 0.9, None: 0.2}
    found = coordinate_search(lambda s: np.full(3, height[s["a"]]), {"a": list(height)}, {"a": "one"})[0]
    assert found == {"a": "three"}


def test_a_gain_within_the_noise_changes_nothing():
    lucky = np.array([0.9, -0.7, 0.8, -0.6, 0.0])  # mean +0.08, standard error 0.34

    def evaluate(setting):
        return lucky if setting["a"] else np.zeros(5)

    assert coordinate_search(evaluate, {"a": [0, 1]}, {"a": 0})[0] == {"a": 0}
    assert coordinate_search(evaluate, {"a": [0, 1]}, {"a": 0}, caution=0)[0] == {"a": 1}


def test_a_gain_must_be_twice_its_standard_error():
    spread = np.array([-3.0, -1, 1, 3]) * 0.1
    noise = spread.std(ddof=1) / 2

    def taken(errors):
        return coordinate_search(lambda s: s["a"] * (errors * noise + spread), {"a": [0, 1]}, {"a": 0})[0] == {"a": 1}

    assert not taken(1.5)  # among a dozen settings one is as lucky as that
    assert taken(2.5)


def test_a_gain_that_every_image_shares_is_no_noise_but_must_be_worth_it():
    def evaluate(setting):
        return np.array([0.1, 0.5, 0.9]) + 0.008 * setting["a"]

    assert coordinate_search(evaluate, {"a": [0, 1]}, {"a": 0}, caution=5, min_gain=0.01)[0] == {"a": 0}
    assert coordinate_search(evaluate, {"a": [0, 1]}, {"a": 0}, caution=5, min_gain=0.005)[0] == {"a": 1}


def test_the_start_is_kept_unless_it_is_worse():
    table = {0: np.zeros(4), 1: np.array([0.6, 0.4, 0.5, 0.5]), 2: np.array([0.4, 0.7, 0.5, 0.6]), 3: np.full(4, 0.2)}
    space = {"a": [1, 2, 3]}

    def evaluate(setting):
        return table[setting["a"]]

    assert coordinate_search(evaluate, space, {"a": 0})[0] == {"a": 2}
    assert coordinate_search(evaluate, space, {"a": 3})[0] == {"a": 2}  # worse by more than the noise
    assert coordinate_search(evaluate, space, {"a": 1})[0] == {"a": 1}
    assert coordinate_search(lambda _: np.ones(3), space, {"a": 2})[0] == {"a": 2}


def test_what_was_tried_when_the_time_is_up_decides():
    asked = []

    def evaluate(setting):
        asked.append(setting["a"])
        return bowl(setting)

    def search(settings):
        asked.clear()
        return coordinate_search(evaluate, SPACE, {"a": 0, "b": 10}, is_over=lambda: len(asked) >= settings)[0]

    assert search(1) == {"a": 0, "b": 10} and len(asked) == 1
    assert search(2) == {"a": 1, "b": 10} and len(asked) == 2
    assert search(4) == {"a": 2, "b": 10} and len(asked) == 4


def test_a_later_round_returns_to_the_start():
    # with b wrong only a = 3 scores; with b right all values of a are alike
    def evaluate(setting):
        return np.full(3, 1.0 if setting["b"] == 20 else 0.5 * (setting["a"] == 3))

    assert coordinate_search(evaluate, SPACE, {"a": 0, "b": 99})[0] == {"a": 0, "b": 20}
    assert coordinate_search(evaluate, {**SPACE, "a": [2, 3]}, {"a": 0, "b": 99}, max_rounds=1)[0] == {"a": 3, "b": 20}
    # also where worse values lie between
    table = {10: [0.0, 0.3, 0.6, 1.0], 20: [2.0, 1.2, 1.2, 2.0]}
    space = {"a": [0, 1, 2, 3], "b": [10, 20]}
    kept, _ = coordinate_search(lambda s: np.full(3, table[s["b"]][s["a"]]), space, {"a": 0, "b": 10})
    assert kept == {"a": 0, "b": 20}


def test_images_that_say_nothing_are_left_out():
    gain, noise = paired_gain(np.array([0.5, np.nan, 0.7]), np.array([0.4, 0.2, 0.5]))
    assert gain == pytest.approx(0.15) and noise == pytest.approx(0.05)
    assert paired_gain(np.array([0.5]), np.array([0.4])) == (pytest.approx(0.1), 0.0)

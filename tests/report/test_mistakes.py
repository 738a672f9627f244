import numpy as np

from spoco_bundle.metrics.contingency import contingency_table
from spoco_bundle.report.mistakes import find_mistakes


def test_each_kind_of_mistake_is_named_with_its_place():
    truth, found = np.zeros((2, 10, 50), np.int32), np.zeros((2, 10, 50), np.int32)
    for number, start in enumerate((0, 10, 20, 30), start=1):
        truth[:, 2:8, start : start + 8] = number
    found[:, 2:8, 0:18] = 7
    found[:, 2:8, 20:24], found[:, 2:8, 24:28] = 8, 9
    found[:, 2:4, 44:48] = 10
    mistakes = find_mistakes(truth, found, contingency_table(truth, found))
    assert [(mistake.kind, mistake.text) for mistake in mistakes] == [
        ("merges", "object 7 covers 1, 2 of the truth"),
        ("splits", "3 of the truth is split into objects 8, 9"),
        ("misses", "4 of the truth is missed"),
        ("false_objects", "object 10 is none in the truth"),
    ]
    assert [mistake.box[2] for mistake in mistakes] == [[0, 18], [20, 28], [30, 38], [44, 48]]
    assert mistakes[2].centre == [0.5, 4.5, 33.5]
    assert find_mistakes(truth, truth, contingency_table(truth, truth)) == []

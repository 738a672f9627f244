"""Images that show their objects at different sizes: how that is told, and by how much each is enlarged."""

import numpy as np
import pytest

from spoco_bundle.dataset.annotated_sizes import equal_scales, share_between


def drawn(seed, between, within, images=400, objects=6):
    """Diameters of log-normal objects, by image."""
    rng = np.random.default_rng(seed)
    typical = rng.normal(3, between, images)
    return [np.exp(rng.normal(one, within, objects + number % 3)) for number, one in enumerate(typical)]


def test_the_share_of_the_variance_between_images_is_that_of_a_table_worked_by_hand():
    # three images of 3, 3 and 4 objects: B = 2.475, W = 0.25 / 7 * 4, m = 3.3
    logs = [[0.0, 0.5, 1.0], [1.0, 1.5, 2.0], [2.0, 2.0, 2.5, 2.5]]
    means, total = [0.5, 1.5, 2.25], 15.0 / 10
    between = sum(len(one) * (mean - total) ** 2 for one, mean in zip(logs, means)) / 2
    within = (0.5 + 0.5 + 0.25) / 7
    usual = (10 - 34 / 10) / 2
    expected = (between - within) / (between + (usual - 1) * within)
    assert share_between([np.exp(one) for one in logs]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("between, within, share", [(0.0, 0.3, 0.0), (0.3, 0.3, 0.5), (0.4, 0.2, 0.8)])
def test_the_share_is_that_of_the_population_whatever_the_number_of_objects_in_an_image(between, within, share):
    for objects in (3, 12):
        assert share_between(drawn(0, between, within, objects=objects)) == pytest.approx(share, abs=0.05)


def test_one_image_and_images_of_few_objects_say_nothing():
    assert share_between([np.array([1.0, 2, 3])]) == 0 == share_between([np.array([1.0, 2]), np.array([10.0, 20])])
    assert share_between([np.full(3, 5.0), np.full(4, 5.0)]) == 0


def test_images_are_brought_to_one_size_where_sizes_differ_between_them_rather_than_within():
    magnified = [*drawn(1, 0.0, 0.2, images=8), *(2 * one for one in drawn(2, 0.0, 0.2, images=8))]
    one_kind = drawn(3, 0.15, 0.3, images=16)
    scales = equal_scales(magnified, 2)
    assert scales[:8] / scales[8:].mean() == pytest.approx(2, rel=0.35) and (scales != 1).any()
    assert (equal_scales(one_kind, 2) == 1).all()
    # told, it is done or left in any case
    assert (equal_scales(magnified, 2, False) == 1).all()
    assert (equal_scales(one_kind, 2, True) != 1).any()

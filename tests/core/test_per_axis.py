import pytest

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.per_axis import per_axis


def test_one_for_all_or_one_per_axis():
    assert per_axis("halo", 4, 3) == (4, 4, 4)
    assert per_axis("halo", [0, 1], 2) == (0, 1)


@pytest.mark.parametrize(("value", "least"), [([1, 2], 0), (0, 1), ([1, 1, 0], 1), ([], 0)])
def test_what_does_not_fit_is_named(value, least):
    with pytest.raises(SpocoError, match=f"halo is .*: give one whole number of at least {least}, or 3 for a 3D"):
        per_axis("halo", value, 3, least)

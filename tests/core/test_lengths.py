from __future__ import annotations

import pytest

from spoco_bundle.core.lengths import in_unit, in_words, parse_unit


@pytest.mark.parametrize(
    ("text", "micrometers"),
    [
        *dict.fromkeys(("µm", "μm", "um", "UM", "micron", "Microns", "micrometres", "micrometer"), 1).items(),
        *dict.fromkeys(("\\u00B5m", "Âµm", "Î¼m", "\ufffdm", "µ", " um "), 1).items(),
        *dict.fromkeys(("nm", "NM", "nanometer", "Nanometres"), 1e-3).items(),
        *dict.fromkeys(("mm", "MM", "millimeter", "millimetres"), 1e3).items(),
        *dict.fromkeys(("Å", "A", "angstrom", "Angstroms"), 1e-4).items(),
        *{"cm": 1e4, "m": 1e6, "meters": 1e6, "pm": 1e-6, "km": 1e9, "Mm": 1e12}.items(),
        *{
            "inch": 25400,
            "in": 25400,
            "inches": 25400,
            "thou": 25.4,
            "feet": 304800,
            "parsec": 3.0856775814913673e22,
        }.items(),
    ],
)
def test_units_as_files_spell_them(text, micrometers):
    assert parse_unit(text).micrometers == pytest.approx(micrometers)


@pytest.mark.parametrize("text", [None, "", "pixel", "pixels", "reference frame", "furlong", "s", "unknown"])
def test_what_is_no_length(text):
    assert parse_unit(text) is None


def test_lengths_go_back_into_the_unit_of_a_file():
    assert in_unit(2.0, "nanometer") == 2000 and in_unit(2.0, "mm") == 0.002
    assert in_unit(2.0, "unknown") == 2
    assert in_words((2, 0.8), "micrometer") == "2 x 0.8 um" and in_words((2, 1), "unknown") == "2 x 1 (no unit)"

"""Units of length as image files name them, and how many micrometres each is.

Inside the package a length is in micrometres (`MICROMETER`), in pixels where no size is known (`PIXEL`), or a number
whose unit the file leaves out (`UNITLESS`). The three never mix.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

MICROMETER, PIXEL, UNITLESS = "micrometer", "pixel", "unknown"


class Unit(NamedTuple):
    """A unit of length: its English name and its length in micrometres."""

    name: str
    micrometers: float


_PREFIXES = {
    **{"Y": ("yotta", 24), "Z": ("zetta", 21), "E": ("exa", 18), "P": ("peta", 15), "T": ("tera", 12)},
    **{"G": ("giga", 9), "M": ("mega", 6), "k": ("kilo", 3), "h": ("hecto", 2), "da": ("deca", 1), "": ("", 0)},
    **{"d": ("deci", -1), "c": ("centi", -2), "m": ("milli", -3), "u": ("micro", -6), "n": ("nano", -9)},
    **{"p": ("pico", -12), "f": ("femto", -15), "a": ("atto", -18), "z": ("zepto", -21), "y": ("yocto", -24)},
}
_OTHERS = {
    **{"angstrom": 1e-4, "inch": 25_400.0, "thou": 25.4, "line": 25_400.0 / 12, "point": 25_400.0 / 72},
    **{"foot": 304_800.0, "yard": 914_400.0, "mile": 1.609344e9},
    **{"astronomical unit": 1.495978707e17, "light year": 9.4607304725808e21, "parsec": 3.0856775814913673e22},
}
#: symbols of OME, whose case counts (mm, Mm)
_SYMBOLS = {symbol + "m": Unit(f"{prefix}meter", 10.0 ** (power + 6)) for symbol, (prefix, power) in _PREFIXES.items()}
_SYMBOLS |= {
    symbol: Unit(name, _OTHERS[name])
    for symbol, name in (
        *(("Å", "angstrom"), ("A", "angstrom"), ("in", "inch"), ("thou", "thou"), ("li", "line"), ("pt", "point")),
        *(("ft", "foot"), ("yd", "yard"), ("mi", "mile"), ("ua", "astronomical unit"), ("ly", "light year")),
        ("pc", "parsec"),
    )
}
#: names and symbols in lower case; of two symbols that differ in case alone, the smaller length is meant
_NAMES: dict[str, Unit] = {}
for _symbol, _unit in sorted(_SYMBOLS.items(), key=lambda entry: -entry[1].micrometers):
    _NAMES[_symbol.lower()] = _NAMES[_unit.name] = _unit
    _NAMES[_unit.name.replace("meter", "metre")] = _unit
_NAMES |= {"micron": _SYMBOLS["um"], "ångström": _SYMBOLS["A"], "ångstrom": _SYMBOLS["A"], "feet": _SYMBOLS["ft"]}
_NAMES |= dict.fromkeys(("u", "mu", "mum", "µ", "μ"), _SYMBOLS["um"])


def parse_unit(text: str | None) -> Unit | None:
    """The unit that a text names, as files spell it: symbols, names, plurals, and a micro sign in a wrong encoding.

    Args:
        text: such as ``"µm"``, ``"micron"``, ``"micrometres"``, ``"nm"``, or ImageJ's escape of ``"µm"``.

    Returns:
        The unit, or None for what is no length (``"pixel"``, an empty text, an unheard word).
    """
    word = (text or "").strip().strip("\0").strip()
    word = re.sub(r"\\u00([0-9a-fA-F]{2})", lambda found: chr(int(found[1], 16)), word)
    try:
        word = word.encode("latin-1").decode("utf-8")  # UTF-8 that was read as Latin-1
    except UnicodeError:
        pass
    # micro sign, Greek mu, and what is left of either where an encoding has no place for it
    word = re.sub(r"^[µμ?\ufffd](?=m|icro)", lambda found: "u", word)
    word = re.sub(r"^uicro", "micro", word)
    if word in _SYMBOLS:
        return _SYMBOLS[word]
    word = word.lower().rstrip(".")
    return _NAMES.get(word) or _NAMES.get(word.removesuffix("es")) or _NAMES.get(word.removesuffix("s"))


def in_unit(length: float, name: str) -> float:
    """A length in micrometres, expressed in a unit; where the unit is no length, the number as it is."""
    unit = parse_unit(name)
    return float(length) if unit is None else float(f"{length / unit.micrometers:.12g}")


def in_words(lengths: Sequence[float], unit: str = "") -> str:
    """Lengths along axes as a person writes them, such as ``2 x 0.8 x 0.8 um``."""
    symbol = {MICROMETER: "um", UNITLESS: "(no unit)"}.get(unit, unit)
    return f"{' x '.join(f'{length:g}' for length in lengths)} {symbol}".strip()

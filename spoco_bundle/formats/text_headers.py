"""The text headers of NRRD and MetaImage: what ITK passes over in them, and what it must not be asked to do."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath, PureWindowsPath

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.lengths import Unit, parse_unit

NRRD, META = (".nrrd", ".nhdr"), (".mha", ".mhd")
_LONGEST = 1 << 16
_DATA_FILES = "data files"  # under which the names that a header gives them are kept here, one a line


def stated_unit(path: Path) -> Unit | None:
    """The unit of length in the header of a NRRD or MetaImage file, which is checked; None where it names none.

    Raises:
        SpocoError: if it takes its voxels from a file outside its folder, or scales them, which ITK would not do.
    """
    fields = _fields(path)
    for name in fields.get(_DATA_FILES, "").splitlines():
        _refuse_elsewhere(path, name)
    scaling = [fields.get("elementtointensityfunctionslope", "1"), fields.get("elementtointensityfunctionoffset", "0")]
    if [_number(text) for text in scaling] != [1.0, 0.0]:
        raise SpocoError(
            f"{path}: says that its values are to be scaled by {scaling[0]} and shifted by {scaling[1]}, which is not "
            "done here: save the scaled values"
        )
    stated = fields.get("space units", fields.get("units", fields.get("distanceunits", "")))
    named = [parse_unit(word) for word in stated.replace('"', " ").split()]
    lengths = [unit for unit in named if unit is not None]
    # ITK hands out one number per axis whatever its unit is: axes of several units are of no known length
    return lengths[0] if lengths and all(unit == lengths[0] for unit in lengths) else None


def state_unit(path: Path, unit: Unit) -> None:
    """Adds the unit of length to the header of a NRRD or MetaImage file that ITK wrote; other formats have no place.

    Args:
        path: a single file, header and voxels.
        unit: of its spacing.
    """
    symbol = {"micrometer": "um", "millimeter": "mm", "centimeter": "cm"}.get(unit.name, unit.name)
    suffix = path.suffix.lower()
    with path.open("rb") as file:
        head = file.read(_LONGEST)
    if suffix == ".nrrd":
        place = head.index(b"\n\n") + 1
        axes = next(int(line.split(b":")[1]) for line in head[:place].splitlines() if line.startswith(b"dimension"))
        line = "space units: " + " ".join(['"' + symbol + '"'] * axes) + "\n"
    elif suffix == ".mha" and symbol in ("um", "mm", "cm"):
        place = head.index(b"ElementDataFile")
        line = f"DistanceUnits = {symbol}\n"
    else:
        return
    with path.open("rb") as file, path.with_name(f"{path.name}.united").open("wb") as united:
        united.write(file.read(place) + line.encode("ascii"))
        shutil.copyfileobj(file, united)
    path.with_name(f"{path.name}.united").replace(path)


def _refuse_elsewhere(path: Path, name: str) -> None:
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(name).is_absolute() or ".." in kind(name).parts:
            raise SpocoError(
                f"{path}: takes its voxels from {name}, outside its folder: move that file beside it and correct the "
                "header"
            )
    beside = path.parent / name
    if beside.exists() and path.parent.resolve() not in beside.resolve().parents:
        raise SpocoError(f"{path}: takes its voxels from {name}, a link out of its folder: put the file itself there")


def _fields(path: Path) -> dict[str, str]:
    """Names in lower case to values, up to where the voxels begin."""
    with path.open("rb") as file:
        head = file.read(_LONGEST).replace(b"\r\n", b"\n")
    nrrd = path.suffix.lower() in NRRD
    lines = (head.split(b"\n\n", 1)[0] if nrrd else head).decode("latin-1").split("\n")
    fields: dict[str, str] = {}
    for number, line in enumerate(lines):
        name, found, value = (part.strip() for part in line.partition(":" if nrrd else "="))
        if found:
            fields.setdefault(name.lower(), value)
        if name.lower() in ("elementdatafile", "data file", "datafile"):
            listed = lines[number + 1 :] if value.upper().startswith("LIST") else [value]
            fields[_DATA_FILES] = "\n".join(
                line.strip() for line in listed if line.strip() and value.upper() != "LOCAL"
            )
            break
    return fields


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")

"""Tables as people keep them: CSV by hand, from napari, or out of Excel with semicolons and decimal commas."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from spoco_bundle.core.errors import SpocoError


@dataclass(frozen=True)
class Row:
    """One row of a table: its file, its line in it, and its values by column, stripped."""

    path: Path
    line: int
    values: dict[str, str]

    def error(self, words: str) -> SpocoError:
        """The error that says something is wrong with this row."""
        return SpocoError(f"{self.path}: row {self.line}: {words}")

    def number(self, column: str) -> float:
        """The value of a column as a number, with a decimal point or comma.

        Raises:
            SpocoError: if it is none.
        """
        text = self.values[column]
        try:
            number = float(text.replace(",", "."))
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.error(f"{column} is {text!r}: write a number")
        return number

    def whole_number(self, column: str) -> int:
        """The value of a column as a whole number; ``3.0`` is one.

        Raises:
            SpocoError: if it is none.
        """
        number = self.number(column)
        if number != int(number):
            raise self.error(f"{column} is {self.values[column]!r}: write a whole number")
        return int(number)


def read_table(path: str | Path) -> tuple[list[str], list[Row]]:
    """Reads a CSV file with a header.

    Columns are separated by commas, semicolons or tabs, whichever the header has most of. A byte order mark, spaces
    around values, the case of the header and empty lines do not matter.

    Returns:
        The names of the columns in lower case, and the rows; a value that is left out is ``""``.

    Raises:
        SpocoError: if the file cannot be read, has no header, or a row has more values than the header has columns.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SpocoError(f"{path}: cannot be read ({error}): save it as CSV in UTF-8") from error
    header = next((line for line in lines if line.strip()), "")
    delimiter = max(",;\t", key=header.count)
    columns: list[str] = []
    rows = []
    for line, cells in enumerate(csv.reader(lines, delimiter=delimiter, skipinitialspace=True), start=1):
        values = [cell.strip() for cell in cells]
        if not any(values):
            continue
        if not columns:
            columns = [value.lower() for value in values]
            continue
        if any(values[len(columns) :]):
            raise SpocoError(
                f"{path}: row {line}: has {len(values)} values for {len(columns)} columns: separate columns by "
                "commas and write decimals with a point, or separate columns by semicolons"
            )
        values += [""] * (len(columns) - len(values))
        rows.append(Row(path, line, dict(zip(columns, values, strict=False))))
    if not columns:
        raise SpocoError(f"{path}: is empty: write a header and a row for each entry, or delete the file")
    return columns, rows

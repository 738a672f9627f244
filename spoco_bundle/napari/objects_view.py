"""The table of objects, as Qt shows it."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import QAbstractTableModel, QItemSelection, QItemSelectionModel, QModelIndex, QSortFilterProxyModel, Qt
from qtpy.QtWidgets import QAbstractItemView, QHeaderView, QTableView

COLUMNS = ("id", "voxels", "confidence")


class ObjectsView(QTableView):
    """A sorted table of objects, of which some are selected."""

    def __init__(self) -> None:
        super().__init__(minimumHeight=120)
        self.table = ObjectsTable()
        self.sorted = QSortFilterProxyModel(self)
        self.sorted.setSourceModel(self.table)
        self.sorted.setSortRole(Qt.ItemDataRole.UserRole)
        self.setModel(self.sorted)
        self.setSortingEnabled(True)
        self.sortByColumn(0, Qt.SortOrder.AscendingOrder)
        self.verticalHeader().hide()
        self.horizontalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)

    def row_at(self, index: QModelIndex) -> dict[str, Any]:
        """The row of the table that a place of the view shows."""
        return self.table.rows[self.sorted.mapToSource(index).row()]

    def selected(self) -> list[int]:
        """Ids of the selected objects."""
        return [self.row_at(index)["id"] for index in self.selectionModel().selectedRows()]

    def select(self, objects: set[int]) -> None:
        """Selects objects by their ids, and no others."""
        chosen = QItemSelection()
        for place, row in enumerate(self.table.rows):
            if row["id"] in objects:
                index = self.sorted.mapFromSource(self.table.index(place, 0))
                chosen.select(index, index)
        flags = QItemSelectionModel.SelectionFlag
        self.selectionModel().select(chosen, flags.ClearAndSelect | flags.Rows)
        if len(objects) == 1 and chosen.indexes():
            self.scrollTo(chosen.indexes()[0])


class ObjectsTable(QAbstractTableModel):
    """The rows of ``objects_table`` for a view."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, Any]] = []

    def show_rows(self, rows: list[dict[str, Any]]) -> None:
        """Shows other rows."""
        self.beginResetModel()
        self.rows = rows
        self.endResetModel()

    def rowCount(self, parent: QModelIndex | None = None) -> int:  # noqa: D102, N802 -- Qt's
        return len(self.rows)

    def columnCount(self, parent: QModelIndex | None = None) -> int:  # noqa: D102, N802 -- Qt's
        return len(COLUMNS)

    def data(self, index: QModelIndex, role: int = Qt.ItemDataRole.DisplayRole) -> Any:  # noqa: D102 -- Qt's
        value = self.rows[index.row()][COLUMNS[index.column()]]
        if role == Qt.ItemDataRole.UserRole:
            return -1.0 if value == "" else value
        if role == Qt.ItemDataRole.DisplayRole:
            return f"{value:.2f}" if isinstance(value, float) else str(value)
        return None

    def headerData(  # noqa: D102, N802 -- Qt's
        self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole
    ) -> Any:
        if role == Qt.ItemDataRole.DisplayRole and orientation == Qt.Orientation.Horizontal:
            return COLUMNS[section]
        return None

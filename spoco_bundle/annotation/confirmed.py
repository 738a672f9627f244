"""What a person says with a label that was corrected from a prediction, and what nobody has looked at."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import fastremap
import numpy as np


def confirmed_labels(
    returned: np.ndarray,
    handed_out: Iterable[np.ndarray] = (),
    previous: np.ndarray | None = None,
    confirmed: Collection[int] = (),
    background: Collection[int] = (),
    background_label: int = 65535,
) -> np.ndarray:
    """Keeps what a person drew, changed or confirmed, and makes everything else unlabeled.

    An object of the returned label counts if it is named in ``confirmed``, if it already stood in ``previous`` voxel
    for voxel, or if it is no unchanged object of a prediction that was handed out (see ``unchanged_objects``).

    Args:
        returned: (*spatial) non-negative ids, 0 = nothing.
        handed_out: every prediction (*spatial) that a client may have started from.
        previous: (*spatial) what was confirmed before, with ``background_label``, or None.
        confirmed: ids that the person declares right, changed or not.
        background: ids that the person painted where no object is.
        background_label: id of known background in the result.

    Returns:
        (*spatial) int32: objects under the ids they came with (one that came as ``background_label`` gets another),
        known background, and 0 for all the rest.
    """
    ids = {int(i) for i in fastremap.unique(returned)} - {0}
    before = {} if previous is None else same_objects(returned, previous)
    known_background = ids & {int(i) for i in background}
    known_background |= {i for i in before if before[i] == background_label} - {int(i) for i in confirmed}
    kept = ids & {int(i) for i in confirmed} | set(before)
    unchecked = set().union(*(unchanged_objects(returned, prediction) for prediction in handed_out))
    kept = (kept | ids - unchecked) - known_background
    free = (i for i in range(1, len(ids) + 2) if i not in ids and i != background_label)
    new = dict.fromkeys(ids, 0) | {i: i for i in kept} | dict.fromkeys(known_background, background_label)
    if background_label in kept:
        new[background_label] = next(free)
    return fastremap.remap(returned.astype(np.int32), {0: 0} | new)


def beside_confirmed(returned: np.ndarray, confirmed: np.ndarray, background_label: int) -> tuple[np.ndarray, set[int]]:
    """Puts the objects of a returned label that nobody has checked back beside the confirmed ones.

    Args:
        returned: (*spatial) non-negative ids.
        confirmed: (*spatial) what ``confirmed_labels`` made of it.
        background_label: id of known background in ``confirmed``; an unchecked object with it gets another.

    Returns:
        (*spatial) int32 ids of all objects, and those of the unchecked ones.
    """
    left = np.where(confirmed == 0, returned, 0).astype(np.int32)
    unchecked = {int(i) for i in fastremap.unique(left)} - {0}
    if background_label in unchecked:
        highest = max(int(returned.max()), int(confirmed.max()))
        left[left == background_label] = highest + 1
        unchecked = unchecked - {background_label} | {highest + 1}
    return np.where(confirmed == 0, left, confirmed).astype(np.int32), unchecked


def mostly_in(labels: np.ndarray, previous: np.ndarray) -> dict[int, int]:
    """For every id of a label the id of the previous one that shares most voxels with it, if any does."""
    both = (labels != 0) & (previous != 0)
    pairs, counts = np.unique(np.stack([labels[both], previous[both]]), axis=1, return_counts=True)
    # the last one of an id is kept: that with the most voxels
    return {int(mine): int(theirs) for mine, theirs in pairs[:, np.argsort(counts, kind="stable")].T}


def unchanged_objects(returned: np.ndarray, prediction: np.ndarray) -> set[int]:
    """Ids of a returned label that are objects of a prediction as they were, whatever their ids there.

    An object that lost voxels only because the person drew another one over them was not looked at either and counts as
    unchanged. One that lost voxels to nothing (the person erased them), that gained some, or that was split in two was
    corrected.

    Args:
        returned: (*spatial) non-negative ids.
        prediction: (*spatial) non-negative ids.
    """
    origin, successors = _partners(returned, prediction)

    def drawn_over(other: int, theirs: int) -> bool:
        return other != 0 and origin.get(other) != theirs

    return {
        mine
        for mine, theirs in origin.items()
        if all(other == mine or drawn_over(other, theirs) for other in successors[theirs])
    }


def same_objects(returned: np.ndarray, previous: np.ndarray) -> dict[int, int]:
    """Ids of a returned label that occupy exactly the voxels of an id of the previous one, with that id."""
    origin, successors = _partners(returned, previous)
    return {mine: theirs for mine, theirs in origin.items() if successors[theirs] == {mine}}


def put_confirmed_over(
    prediction: np.ndarray, confirmed: np.ndarray, background_label: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Lays what a person has confirmed over a new prediction, so that nobody has to draw it again.

    Predicted objects of which more than half is covered are left out.

    Args:
        prediction: (*spatial) ids 1 to n.
        confirmed: (*spatial) as from ``confirmed_labels``.
        background_label: id of known background in ``confirmed``.

    Returns:
        (*spatial) int32 with ids without gaps: predicted objects, then confirmed ones, then known background; and what
        each id is: "object", "confirmed" or "background".
    """
    combined, numbers = fastremap.renumber(uncovered_objects(prediction, confirmed))
    combined = combined.astype(np.int32)
    kinds = {int(new): "object" for old, new in sorted(numbers.items()) if old}
    own = sorted((int(i) for i in fastremap.unique(confirmed) if i), key=lambda i: (i == background_label, i))
    for number, before in enumerate(own, start=len(kinds) + 1):
        combined[confirmed == before] = number
        kinds[number] = "background" if before == background_label else "confirmed"
    return combined, kinds


def uncovered_objects(prediction: np.ndarray, confirmed: np.ndarray) -> np.ndarray:
    """What is left of a prediction beside what a person has confirmed.

    Args:
        prediction: (*spatial) non-negative ids.
        confirmed: (*spatial) 0 = nothing.

    Returns:
        (*spatial) int32: the prediction where nothing is confirmed, without objects of which more than half is covered.
    """
    sizes = np.bincount(prediction.ravel())
    covered = np.bincount(prediction[confirmed != 0], minlength=len(sizes))
    replaced = np.isin(prediction, np.flatnonzero(2 * covered > sizes)) | (confirmed != 0)
    return np.where(replaced, 0, prediction).astype(np.int32)


def _partners(first: np.ndarray, second: np.ndarray) -> tuple[dict[int, int], dict[int, set[int]]]:
    """For every object of the first label within one of the second that one; for every id of the second those in it."""
    joined = first.astype(np.int64) << 32 | second.astype(np.int64)
    of_first: dict[int, set[int]] = {}
    of_second: dict[int, set[int]] = {}
    for value in fastremap.unique(joined).tolist():
        mine, theirs = value >> 32, value & 0xFFFFFFFF
        of_first.setdefault(mine, set()).add(theirs)
        of_second.setdefault(theirs, set()).add(mine)
    origin = {mine: min(found) for mine, found in of_first.items() if mine and len(found) == 1 and 0 not in found}
    return origin, of_second

"""Images of a batch command: one that cannot be read is reported in its place and does not end the run."""

from __future__ import annotations

from typing import Any

from monai.data import Dataset

from spoco_bundle.core.errors import SpocoError, unwrapped

#: entry of a sample that stands for an image which could not be read: what is wrong with it
PROBLEM = "problem"


class BatchDataset(Dataset):
    """A dataset whose sample is ``{"image": path, "problem": message}`` where the user has to mend the image first.

    Made for ``BatchEvaluator``, with batches of one. Errors that are no user's fault are raised as ever.

    Args:
        data: list of ``{"image": path, ...}``.
        transform: what reads and prepares an image.
    """

    def _transform(self, index: int) -> dict[str, Any]:
        try:
            with unwrapped():
                return super()._transform(index)
        except SpocoError as error:
            return {"image": str(self.data[index]["image"]), PROBLEM: str(error)}

"""The images and labels of a folder, which nobody leaves: what is served, added, saved and removed lies in it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from monailabel.config import settings
from monailabel.datastore.local import DataModel, LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from spoco_bundle.annotation.kept import write_kept
from spoco_bundle.annotation.rectangles import check_place_for_rectangles, keep_rectangles
from spoco_bundle.annotation.side_files import COMPLETE_ENDING, beside, files_beside
from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.formats import read_image, result_suffix
from spoco_bundle.label.client_input import SUFFIXES, check_name, is_inside
from spoco_bundle.label.studies import Studies, is_result

FINAL = DefaultLabelTag.FINAL.value
logger = logging.getLogger(__name__)


@contextmanager
def clear_answers() -> Iterator[None]:
    """Answers what the user can mend with one line (422), where the server would say "Internal Server Error"."""
    try:
        yield
    except HTTPException:
        raise
    except Exception as error:
        mendable = user_error(error)
        if mendable is None:
            raise
        raise HTTPException(status_code=422, detail=str(mendable)) from None


class SpocoDatastore(LocalDatastore):
    """Keeps a label that comes back with a ledger of what a person drew, changed or confirmed, and as it came beside.

    Files whose links lead out of the studies are no studies: they are neither listed nor read, written or removed.

    Args:
        kept: see ``Studies``.
        folder: the studies folder.
    """

    def __init__(self, kept: Studies, folder: str):
        self.kept = kept
        self.folder = Path(folder)
        super().__init__(
            folder,
            extensions=settings.MONAI_LABEL_DATASTORE_FILE_EXT,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )
        outside = sorted(set(super().list_images()) - set(self.list_images()))
        if outside:
            logger.warning("links that lead out of %s are not served, put the files there: %s", folder, outside)

    def list_images(self) -> list[str]:
        """Ids of the images; labels and results that lie beside their images are none."""
        images = [image for image in super().list_images() if self.get_image_uri(image)]
        return [image for image in images if not is_result(image, images)]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images with a label for training."""
        return [image for image in self.list_images() if self.get_label_uri(image, FINAL)]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Ids of the images without a label for training."""
        return [image for image in self.list_images() if not self.get_label_uri(image, FINAL)]

    def get_image_uri(self, image_id: str) -> str:
        """The file of an image, "" where there is none in the folder."""
        return self._inside(super().get_image_uri(image_id))

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """The file of a label, "" where there is none in the folder."""
        return self._inside(super().get_label_uri(label_id, label_tag))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """What is known of an image."""
        return super().get_image_info(image_id) if self.get_image_uri(image_id) else {}

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """The pairs that a training reads."""
        return [pair for pair in super().datalist(full_path) if all(is_inside(self.folder, f) for f in pair.values())]

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Adds an image that opens as one; a file that is there already stays."""
        with clear_answers():
            image_id = check_name("image", image_id or self._to_id(Path(image_filename).name)[0])
            suffix = self._suffix("image", image_filename)
            target = self.folder / f"{image_id}{suffix}"
            if target.exists() or target.is_symlink() or self.get_image_uri(image_id):
                raise SpocoError(f"image {image_id!r}: is among the studies already; choose another name")
            try:
                read_image(image_filename, "image", self.kept.spatial_dims)
            except SpocoError as error:
                reason = str(error).replace(str(image_filename), f"{image_id}{suffix}")
                raise SpocoError(f"{reason}: nothing was added") from error
            return super().add_image(image_id, image_filename, dict(image_info or {}))

    def remove_image(self, image_id: str) -> None:
        """Removes an image and its labels."""
        self._check_image(image_id)
        for tag in self.get_labels_by_image_id(image_id):
            self._check_no_link(self._label_file(image_id, tag))
        self._check_no_link(self.folder / super().get_image_info(image_id).get("name", image_id))
        super().remove_image(image_id)

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Removes a label, one for training with the files beside it."""
        if not self.get_label_uri(label_id, label_tag):
            raise HTTPException(status_code=404, detail=f"label {label_id!r}: there is none with the tag {label_tag!r}")
        file = self._label_file(label_id, label_tag)
        self._check_no_link(file)
        if label_tag == FINAL:
            others = files_beside(file).values()
            for other in others:
                self._check_no_link(other)
            for other in others:
                other.unlink()
        super().remove_label(label_id, label_tag)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Saves a label; one for training is checked and filtered first, and nothing is replaced if it is refused."""
        image = self._check_image(image_id)
        with clear_answers():
            check_name("tag", label_tag)
            self._suffix("label", label_filename)
            for tag in (label_tag, "returned"):
                self._check_no_link(Path(self._datastore.label_path(tag)))
                for suffix in SUFFIXES:
                    self._check_no_link(Path(self._datastore.label_path(tag)) / f"{image_id}{suffix}")
            if label_tag != FINAL:
                read_image(label_filename, "label", self.kept.spatial_dims)
                return super().save_label(image_id, label_filename, label_tag, label_info)
            previous = self.get_label_uri(image_id, FINAL)
            kept = self.kept.take_back(image_id, image, label_filename, label_info or {}, previous)
            suffix = result_suffix(image)
            final = Path(self._datastore.label_path(FINAL)) / self._filename(image_id, suffix)
            if kept.rectangles:
                self._check_no_link(beside(final, COMPLETE_ENDING))
                check_place_for_rectangles(final)
            super().save_label(image_id, label_filename, "returned", dict(label_info or {}))
            # in place of the stock copying, which a server that is killed would leave by half
            write_kept(final, kept.labels, kept.ledger, image)
            if kept.rectangles is not None:
                keep_rectangles(final, kept.rectangles)
        info = {**(label_info or {}), "ts": int(time.time()), "name": final.name}
        self._datastore.objects[image_id].labels[FINAL] = DataModel(info=info, ext=suffix)
        self._update_datastore_file()
        if previous and Path(previous).name != final.name:
            Path(previous).unlink(missing_ok=True)
        return image_id

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Adds to what is known of an image."""
        self._check_image(image_id)
        super().update_image_info(image_id, info)

    def _check_image(self, image_id: str) -> str:
        image = self.get_image_uri(image_id)
        if not image:
            raise HTTPException(status_code=404, detail=f"image {image_id!r}: is not among the studies")
        return image

    def _inside(self, path: str) -> str:
        return path if path and is_inside(self.folder, path) else ""

    def _label_file(self, image_id: str, tag: str) -> Path:
        name = self._filename(image_id, self._datastore.label(image_id, tag).ext)
        return Path(self._datastore.label_path(tag)) / name

    def _suffix(self, kind: str, name: str) -> str:
        suffix = self._to_id(Path(name).name)[1]
        if suffix.lower() not in SUFFIXES:
            raise SpocoError(f"{kind}: a file that ends in {suffix[:20]!r} is none; send one of {', '.join(SUFFIXES)}")
        return suffix

    @staticmethod
    def _check_no_link(path: Path) -> None:
        if path.is_symlink():
            raise HTTPException(status_code=422, detail=f"{path.name}: is a link, through which nothing is changed")

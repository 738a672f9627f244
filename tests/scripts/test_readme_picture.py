from __future__ import annotations

import numpy as np
import pytest
import readme_picture
import tifffile
from PIL import Image


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory):
    """A folder with one image of eight bright disks, and their labels."""
    folder = tmp_path_factory.mktemp("nuclei")
    (folder / "val").mkdir()
    rows, columns = np.mgrid[:80, :128]
    labels = np.zeros((80, 128), dtype=np.uint16)
    for number, (y, x) in enumerate([(y, x) for y in (20, 58) for x in (18, 48, 78, 108)], 1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 < 70] = number
    noise = np.random.default_rng(0).integers(0, 6, labels.shape)
    tifffile.imwrite(folder / "val" / "a_raw.tif", (20 + noise + 180 * (labels > 0)).astype(np.uint8))
    tifffile.imwrite(folder / "val" / "a_label.tif", labels)
    return folder, labels


def coloured(panel: np.ndarray) -> np.ndarray:
    """(y, x) bool: pixels that are not gray."""
    return np.ptp(panel, axis=-1) > 0.05


def test_a_quarter_of_the_objects_is_annotated_and_all_are_found(nuclei):
    folder, labels = nuclei
    image, few, found = readme_picture.overview(folder, "a", (0, 0, 80, 128), 0.25, seed=0, model="")
    assert image.shape == few.shape == found.shape == (80, 128, 3)
    assert not coloured(image).any()
    assert len(np.unique(labels[coloured(few)])) == 2 and labels[coloured(few)].all()
    assert set(np.unique(labels[coloured(found)])) >= set(range(1, 9))


def test_the_part_asked_for_is_shown(nuclei):
    folder, labels = nuclei
    panels = readme_picture.overview(folder, "a", (40, 64, 40, 64), 1.0, seed=0, model="")
    assert (coloured(panels[1]) == (labels[40:, 64:] > 0)).all()


def test_another_seed_draws_other_objects_and_one_at_least_stays(nuclei):
    labels = nuclei[1]
    chosen = {tuple(np.unique(readme_picture.annotated(labels, 0.25, seed))) for seed in range(8)}
    assert len(chosen) > 1 and all(len(ids) == 3 for ids in chosen)
    assert len(np.unique(readme_picture.annotated(labels, 0.01, 0))) == 2


def test_the_picture_has_the_width_asked_for_and_is_small(nuclei, tmp_path):
    options = ["--image", "a", "--crop", "0", "0", "80", "128", "--width", "600"]
    readme_picture.main([str(nuclei[0]), str(tmp_path / "new" / "a.png"), *options])
    with Image.open(tmp_path / "new" / "a.png") as picture:
        assert picture.width == 600 and 100 < picture.height < 250
        assert coloured(np.asarray(picture.convert("RGB")) / 255)[:, 410:].any()
    assert (tmp_path / "new" / "a.png").stat().st_size < 300_000


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--image", "b"], "has no image 'b'; it has a"), (["--image", "a", "--crop", "0", "0", "4", "4"], "--crop")],
)
def test_an_image_or_part_that_is_not_there_ends_with_one_line(nuclei, tmp_path, capsys, options, said):
    with pytest.raises(SystemExit, match="2"):
        readme_picture.main([str(nuclei[0]), str(tmp_path / "a.png"), *options])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "a.png").exists()

from __future__ import annotations

import sys
from itertools import count
from types import SimpleNamespace

import numpy as np
import peer_images
import tifffile
import unet_baseline


def test_a_ring_around_annotated_objects_is_background_and_what_lies_farther_away_is_unknown():
    label = np.full((1, 15), -1)
    label[0, 6:9] = 4
    target = unet_baseline.classes(label)
    assert target[0].tolist() == [-1] * 3 + [0] * 3 + [2, 1, 2] + [0] * 3 + [-1] * 3
    complete = unet_baseline.classes(np.maximum(label, 0))
    assert complete[0].tolist() == [0] * 6 + [2, 1, 2] + [0] * 6


def test_crops_hold_what_is_known_and_small_images_are_mirrored_with_it(monkeypatch):
    monkeypatch.setattr(unet_baseline, "augment", lambda image, target: (image, target))
    image, target = np.zeros((100, 20, 2), np.float32), np.full((100, 20), -1)
    image[40, 10], target[40, 10] = 1, 1
    for _ in range(20):
        part, known = unet_baseline.crop(image, target, (32, 32))
        assert part.shape == (32, 32, 2) and 1 <= (known == 1).sum() <= 2
        np.testing.assert_array_equal(part[..., 0] == 1, known == 1)


def test_touching_objects_are_told_apart_and_specks_left_out():
    probabilities = np.zeros((3, 20, 21))
    probabilities[0] = 1
    for columns in (slice(2, 10), slice(10, 18)):
        probabilities[:, 2:18, columns] = np.array([0, 0.1, 0.9])[:, None, None]
        probabilities[:, 3:17, columns.start + 1 : columns.stop - 1] = np.array([0, 0.9, 0.1])[:, None, None]
    probabilities[:, 19, 20] = [0, 1, 0]
    found = unet_baseline.instances(probabilities, 0.5, least=5)
    assert len(np.unique(found)) == 3 and (found[2:18, 2:18] > 0).all() and found[19, 20] == 0
    probabilities[:, 8, 8:12] = np.array([0, 0.7, 0.3])[:, None]  # a bridge that is less surely inside
    merged, apart = (unet_baseline.instances(probabilities, threshold, 5) for threshold in (0.5, 0.8))
    assert merged.max() == 1 and apart.max() == 2
    assert unet_baseline.ap_50([merged], [found]) == 0.5 and unet_baseline.ap_50([apart], [found]) == 1


def test_it_learns_discs_in_two_channels_and_writes_them_on_the_grid_of_the_labels(tmp_path, monkeypatch):
    random, at = np.random.default_rng(0), np.indices((64, 65))
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        label = np.zeros((64, 65), np.uint8)
        for number, middle in enumerate(np.mgrid[16:64:32, 16:64:32].reshape(2, -1).T):
            label[((at - middle[:, None, None]) ** 2).sum(0) < 100] = number + 1
        image = random.normal(50 + 100 * (label > 0), 5, (2, 64, 65)).astype(np.float32)
        tifffile.imwrite(tmp_path / split / "a_raw.tif", image)
        tifffile.imwrite(tmp_path / split / "a_label.tif", label)
    found = tmp_path / "found"
    options = ["--output", str(found), "--minutes", "1", "--patch", "32", "32", "--downsample", "2", "2"]
    monkeypatch.setattr(sys, "argv", ["unet_baseline.py", str(tmp_path), str(tmp_path / "val"), *options])
    # a clock of one second for each iteration
    monkeypatch.setattr(unet_baseline, "time", SimpleNamespace(monotonic=count().__next__))
    unet_baseline.main()
    instances = tifffile.imread(found / "a_instances.tif")
    assert instances.shape == (64, 65) and len(np.unique(instances)) == 5
    assert (found / "training.json").is_file()
    names, images, labels = peer_images.read_pairs(tmp_path / "val", True, (2, 2))
    assert images[0].shape == (32, 32, 2) == (*labels[0].shape, 2) and names == ["a"] and labels[0].min() == -1

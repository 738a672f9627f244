"""What scripts/robustness.py does to images, and its table."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset.synthetic import make_synthetic_sample
from spoco_bundle.formats import read_image


@pytest.fixture(scope="module")
def script():
    return importlib.import_module("robustness")


@pytest.fixture
def apply(script):
    def change(name, image):
        spatial_dims = np.ndim(image) - 1
        return script.changes(spatial_dims)[name].apply(np.asarray(image, float), np.random.default_rng(0))

    return change


#: the least value is 10, the greatest 30; percentile 1 is 10 too, since most voxels have it
RAMP = np.full((1, 4, 101), 10.0)
RAMP[0, :, 0], RAMP[0, :, 50], RAMP[0, :, 100] = 30, 20, 30


@pytest.mark.parametrize(
    "name, expected",
    [
        ("x0.1", [3, 2, 3]),
        ("x10", [300, 200, 300]),
        ("offset by 20% of the range", [34, 24, 34]),
        ("gamma 0.7", [30, 10 + 20 * 0.5**0.7, 30]),
        ("gamma 1.4", [30, 10 + 20 * 0.5**1.4, 30]),
        ("stored as uint8, minimum to maximum on 0 to 255", [255, 128, 255]),
        ("stored as float32, minimum to maximum on 0 to 1", [1, 0.5, 1]),
        ("illumination falling to 50% along x", [30, 10 + 0.75 * 10, 10 + 0.5 * 20]),
        ("illumination of all, along x", [30, 0.75 * 20, 0.5 * 30]),
        ("x0.1, rounded to whole numbers", [3, 2, 3]),
    ],
)
def test_values(name, expected, apply):
    changed = apply(name, RAMP)
    assert changed.shape == RAMP.shape
    assert changed.dtype == (np.uint8 if "uint8" in name else np.uint16 if "whole" in name else np.float32)
    np.testing.assert_allclose(changed[0, 0, [0, 50, 100]], expected, rtol=1e-6)


@pytest.mark.parametrize("axis, name", [(0, "attenuation to 50% along z"), (1, "illumination falling to 50% along y")])
def test_light_falls_along_the_named_axis_only_and_the_background_stays(axis, name, apply):
    image = np.full((2, 5, 5, 50), 100.0)
    image[..., :5] = 300
    changed = np.moveaxis(apply(name, image), axis + 1, 0)
    np.testing.assert_allclose(changed[:, 0, 0, 0], [300, 275, 250, 225, 200])
    assert (changed[..., 5:] == 100).all()
    assert np.ptp(changed, axis=(1, 2))[..., :5].max() == 0


def test_light_of_all_scales_the_background_too(apply):
    changed = apply("attenuation of all, along z", np.full((1, 3, 4, 4), 100.0) + np.eye(4))
    np.testing.assert_allclose(changed[0, :, 0, 1], [100, 75, 50])


def test_flips_turn_the_named_axis_and_no_other(script, apply):
    image = np.arange(24.0).reshape(1, 2, 3, 4)
    for axis, letter in enumerate("zyx"):
        np.testing.assert_array_equal(apply(f"flipped along {letter}", image), np.flip(image, axis + 1))
        assert script.changes(3)[f"flipped along {letter}"].flipped_axis == axis
    assert "flipped along z" not in script.changes(2) and "attenuation to 50% along z" not in script.changes(2)


@pytest.mark.parametrize("shape", [(200, 200), (30, 60, 60)])
def test_noise_is_measured_on_smooth_structure_and_doubled(shape, script, apply):
    generator = np.random.default_rng(1)
    smooth = sum(50 * np.sin(grid / 9) for grid in np.indices(shape))
    noisy = smooth + generator.normal(0, 7, shape)
    assert script.noise_level(smooth) < 0.2
    assert script.noise_level(noisy) == pytest.approx(7, rel=0.03)
    doubled = apply("doubled noise", noisy[None])[0]
    assert np.std(doubled - smooth) == pytest.approx(14, rel=0.03)
    # rounded to whole numbers, as files are: noise of variance 1/12 comes on top
    assert script.noise_level(np.rint(noisy / 7)) == pytest.approx((1 + 1 / 12) ** 0.5, rel=0.05)


def test_an_image_without_noise_stays(script, apply):
    assert script.noise_level(np.zeros((8, 8))) == 0
    np.testing.assert_array_equal(apply("doubled noise", np.full((1, 8, 8), 3.0)), 3)


def test_files_keep_spacing_and_labels_turn_with_images(script, tmp_path):
    made = make_synthetic_sample(tmp_path / "data", 0, 1, (8, 24, 24), (8, 24, 28), (2.0, 0.5, 0.8))["val"]
    script.write_changed(tmp_path / "data", script.changes(3)["flipped along x"], tmp_path / "changed", 3, None)
    for pair in made:
        name = pair["image"].rsplit("/", 1)[1].split("_raw")[0]
        for key, ending in (("image", "raw"), ("label", "label")):
            before = read_image(pair[key], key)
            after = read_image(tmp_path / "changed" / "val" / f"{name}_{ending}.ome.tif", key)
            np.testing.assert_array_equal(after.array, before.array[..., ::-1])
            assert after.spacing == pytest.approx((2.0, 0.5, 0.8)) and after.file_unit == "micrometer"


def test_a_row_is_kept_only_where_both_scores_are(script):
    base = {"ap_50": 0.8, "sbd": 0.8}
    assert script.row("a", {"ap_50": 0.76, "sbd": 0.9}, base, 0.05).endswith("| -0.040 | +0.100 | 0.05 | yes |")
    assert script.row("a", {"ap_50": 0.9, "sbd": 0.74}, base, 0.05).endswith("| 0.05 | **no** |")
    assert script.row("a", base, base, None) == "| a | 0.800 | 0.800 | 0.000 | 0.000 |  |  |"


def test_the_page_gets_its_table_between_the_marks(script, tmp_path):
    page = tmp_path / "card.md"
    page.write_text("a\n<!-- robustness: x -->\nold\n<!-- end -->\nb\n<!-- robustness: y -->\nkept\n<!-- end -->\n")
    script.replace_table(page, "robustness: x", "new")
    wanted = "a\n<!-- robustness: x -->\n\nnew\n\n<!-- end -->\nb\n<!-- robustness: y -->\nkept\n<!-- end -->\n"
    assert page.read_text() == wanted
    with pytest.raises(SpocoError, match="robustness: z"):
        script.replace_table(page, "robustness: z", "new")
    with pytest.raises(SpocoError, match="none.md"):
        script.replace_table(tmp_path / "none.md", "robustness: x", "new")


@pytest.mark.slow
def test_a_rescaled_sample_scores_the_same(script, tmp_path, monkeypatch, capsys):
    make_synthetic_sample(tmp_path, 0, 1, (8, 24, 24), (8, 40, 40))
    monkeypatch.setattr(sys, "argv", ["robustness.py", str(tmp_path), "--only", "x10"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith(("| unchanged", "| x10"))]
    assert len(rows) == 2 and "| 0.000 | 0.000 | 0.05 | yes |" in rows[1]

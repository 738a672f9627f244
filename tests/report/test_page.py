from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from spoco_bundle.formats.objects_table import objects_table
from spoco_bundle.report.page import ImagePanel, render_page


def panel(shape=(12, 40, 60), spacing=(2.0, 0.5, 0.5), name="embryo.tif", **extra) -> ImagePanel:
    labels = np.zeros(shape, np.int32)
    labels[..., 4:20, 5:25] = 7
    labels[..., 22:36, 30:50] = 3
    image = np.random.default_rng(0).normal(100 * (labels > 0), 9)[None].astype(np.float32)
    rows = objects_table(labels, spacing, "micrometer", np.linspace(0.1, 0.7, 7))
    return ImagePanel(name, image, labels, rows, spacing, **extra)


def data(page: str):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def picture(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGBA"))


def test_page_loads_nothing_and_its_tags_are_balanced():
    class Tags(HTMLParser):
        void = {"meta", "img", "input", "link", "br"}

        def __init__(self):
            super().__init__()
            self.open, self.outside = [], []

        def handle_starttag(self, tag, attributes):
            self.outside += [v for k, v in attributes if k in ("src", "href") and v and not v.startswith("data:")]
            if tag not in self.void:
                self.open.append(tag)

        def handle_startendtag(self, tag, attributes):
            pass

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    page = render_page("run", [panel(), panel(name="b.tif")], {"loss": [(0, 2.0), (10, 1.0)]}, '{"seed": 0}')
    tags = Tags()
    tags.feed(page)
    assert tags.open == [] and tags.outside == []
    assert "http" not in page and "seed" in page


def test_names_cannot_bring_markup_into_the_page():
    page = render_page("<script>alert(1)</script>", [panel(name="</script><b>.tif")], settings="</pre><i>")
    assert "<script>alert" not in page and "</script><b>" not in page and "</pre><i>" not in page


def test_slices_show_the_outlines_of_their_objects():
    plane = data(render_page("run", [panel()]))[0]["planes"][0]
    frame = plane["frames"][plane["start"]]
    outlines = picture(frame["found"])
    height, width = outlines.shape[:2]
    drawn = outlines[..., 3] > 0
    assert height / width == pytest.approx(40 / 60, abs=0.02)
    upper_edge = slice(int(4 / 40 * height), int(5 / 40 * height))
    assert drawn[upper_edge, int(15 / 60 * width)].any()
    assert not drawn[int(12 / 40 * height), int(15 / 60 * width)]  # its inside
    assert not drawn[1, 1]


def test_every_axis_is_shown_and_slices_have_the_proportions_of_the_spacing():
    page = render_page("run", [panel()])
    planes = data(page)[0]["planes"]
    assert [plane["axis"] for plane in planes] == [0, 1, 2]
    assert [len(plane["frames"]) for plane in planes] == [12, 40, 60]
    proportions = re.findall(r"aspect-ratio: ([\d.]+) / ([\d.]+)", page)
    assert proportions == [("30.0", "20.0"), ("30.0", "24.0"), ("20.0", "24.0")]


def test_image_has_one_plane_and_no_slider():
    page = render_page("run", [panel(shape=(40, 60), spacing=(0.5, 0.5))])
    assert len(data(page)[0]["planes"]) == 1 and 'type="range"' not in page


def test_table_holds_the_largest_objects_and_where_they_are():
    page = render_page("run", [panel()], max_rows=1)
    rows = data(page)[0]["rows"]
    assert [row["cells"][0] for row in rows] == [7] and rows[0]["centre"] == [6, 12, 14]
    assert "the 1 largest of 2" in page


def test_truth_and_embedding_are_layers():
    shown = panel()
    colours = np.random.default_rng(1).random((40, 60, 3))
    page = render_page("run", [panel(truth=np.roll(shown.labels, 3, -1), embedding={0: (5, colours)})])
    plane = data(page)[0]["planes"][0]
    frames = {frame["index"]: frame for frame in plane["frames"]}
    assert plane["frames"][plane["start"]]["index"] == 5
    assert "embedding" in frames[5] and "embedding" not in frames[6]
    assert all("truth" in frame for frame in plane["frames"])
    assert set(re.findall(r'data-layer="(\w+)"', page)) == {"found", "truth", "embedding"}


def test_page_of_a_large_volume_stays_below_its_bound():
    shape = (160, 512, 512)
    labels = np.kron(np.arange(1, 321).reshape(5, 8, 8), np.ones((32, 64, 64), np.int32)).astype(np.int32)
    image = np.random.default_rng(0).integers(0, 255, (1, *shape), dtype=np.uint8)
    rows = [
        {"id": n, "voxels": 32 * 64 * 64, "volume": 1.0, "centroid_z": 1, "centroid_y": 1, "centroid_x": 1}
        for n in range(1, 321)
    ]
    page = render_page("run", [ImagePanel("large", image, labels, rows)], max_megabytes=3)
    assert 1.5e6 < len(page) < 3e6
    assert all(len(plane["frames"]) > 5 for plane in data(page)[0]["planes"])


def test_without_objects_there_is_still_a_page():
    empty = ImagePanel("none", np.random.default_rng(0).random((1, 8, 16, 16)), np.zeros((8, 16, 16), np.int32), [])
    assert "no objects" in render_page("run", [empty])


@pytest.mark.parametrize("unit", ["nanometer", "millimeter", "unknown"])
def test_slices_go_through_objects_whatever_the_unit_of_the_table(unit):
    expected = data(render_page("run", [panel()]))[0]["rows"]
    other = panel()
    other.rows = objects_table(other.labels, other.spacing, unit)
    found = data(render_page("run", [other]))[0]["rows"]
    assert [row["centre"] for row in found] == [row["centre"] for row in expected] == [[6, 28, 40], [6, 12, 14]]
    other.rows = objects_table(other.labels)
    assert [row["centre"] for row in data(render_page("run", [other]))[0]["rows"]] == [[6, 28, 40], [6, 12, 14]]

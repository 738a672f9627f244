"""What a command says: first what it will do, with how much data, on which device; last where the results are."""

from __future__ import annotations

import shutil

import pytest

from door import run_warm


@pytest.fixture(scope="module")
def folder(sample, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("long_work")
    shutil.copytree(sample, folder / "data")
    shutil.copytree(trained, folder / "model")
    return folder


def spoco(folder, *arguments) -> list[str]:
    """Lines of the standard output; the error stream is no terminal here and gets no bar."""
    result = run_warm(["-m", "spoco_bundle.cli", *arguments], cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "\r" not in result.stderr + result.stdout and "it/s" not in result.stderr
    return result.stdout.splitlines()


def one(lines, start: str) -> str:
    (found,) = (line for line in lines if line.startswith(start))
    return found


def test_training_says_what_it_sees_its_extent_and_last_its_model(folder, tiny_overlay):
    said = spoco(folder, "train", "data", "--output", "new", "--config", tiny_overlay)
    assert said[0].startswith("2 annotated 3D images of about ") and "voxels, 1 channel, " in said[0]
    assert one(said, "objects are ") and one(said, "tissue with gaps: ")
    line = one(said, "training on cpu (1 thread), 2 epochs, 4 iterations each, 2 crops each: 2 images to learn ")
    assert "voxels); 2 images to validate on (" in line
    assert one(said, "iterations: 8 of 8, epoch 2 of 2, loss ").endswith("about 0 seconds left")
    assert said[-1] == "model in new/model.pt"


def test_prediction_says_images_and_voxels_first_and_its_results_last(folder):
    said = spoco(folder, "predict", "data/val", "--model", "model", "--output", "results")
    assert one(said, "segmenting on cpu (1 thread): 2 images (")
    assert "so does the other image, which is no larger" in said[0]
    assert one(said, "images: 2 of 2, ").endswith("about 0 seconds left")
    assert said[-1] == "results in results"
    said = spoco(folder, "report", "results", "--output", "page.html")
    assert said[0].startswith("drawing pages with embeddings on cpu (1 thread): 2 images (")
    assert one(said, "images drawn: 1 of 2, ") and said[-1] == "report in page.html"


def test_blocks_are_counted(folder):
    said = spoco(folder, "predict", "data/val", "--model", "model", "--output", "blocks", "--blockwise", "True")
    assert said[0].startswith("segmenting block by block on cpu (1 thread), 1 workers: 2 images (")
    assert any(line.startswith("label, blocks: 1 of 1, ") for line in said), said
    assert said[-1] == "results in blocks"


def test_evaluation_and_tuning_say_what_they_look_at(folder):
    said = spoco(folder, "evaluate", "data", "--model", "model", "--output", "scores")
    assert said[0].startswith("evaluating on cpu (1 thread): 2 images (") and said[0].endswith(" voxels)")
    assert one(said, "images: 2 of 2, ") and said[-1] == "scores in scores/scores.json, pictures in scores"
    search = '[{"id": "min_fraction", "values": [0.02]}]'
    said = spoco(folder, "tune", "data", "--model", "model", "--search", search, "--keep_fraction", "0.5")
    assert said[0].startswith("tuning the clustering on cpu (1 thread), 12 images at most: 2 images (")
    assert one(said, "images embedded: 2 of 2, ")
    assert said[-1].startswith("settings in model/tuned.json; ")

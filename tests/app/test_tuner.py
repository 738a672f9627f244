from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SimpleInferer

from spoco_bundle.app.tuner import EXPECTED, ClusteringTuner, annotated_shares
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers import InstanceMetric
from spoco_bundle.networks import Decoder
from spoco_bundle.transforms import ClusterEmbeddingsd, RestoreGridd
from spoco_bundle.transforms.spacing import GRID_AFFINE, GRID_SHAPE


class Votes(torch.nn.Module):
    """Stands in for the network: the image holds the raw output, and every call is counted."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        return image + self.weight


def volume(objectness: float, annotated: int) -> dict:
    """Six squares of 8 x 8 voxels that vote for their centres, objectness in them as given, 0.3 around them."""
    label = torch.zeros(32, 48, dtype=torch.int32)
    votes = torch.zeros(2, 32, 48)
    grid = torch.stack(torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij"))
    for number in range(6):
        y, x = 4 + 16 * (number // 3), 4 + 16 * (number % 3)
        here = (slice(y, y + 8), slice(x, x + 8))
        label[here] = number + 1
        votes[(slice(None), *here)] = torch.tensor([y + 3.5, x + 3.5])[:, None, None] - grid[(slice(None), *here)]
    logit = torch.where(label > 0, torch.tensor(objectness), torch.tensor(0.3)).logit()
    raw = torch.cat([votes / 4, torch.zeros(1, 32, 48), logit[None]])
    sparse = torch.where(label <= annotated, label, 0)
    return {"image": MetaTensor(raw), "label": MetaTensor(sparse[None])}


def beside_specks(annotated: int) -> dict:
    """The squares of `volume`, and four smaller ones between them, of an objectness of 0.6 where squares have 0.9."""
    sample = volume(0.9, annotated)
    raw = sample["image"].as_tensor()
    raw[-1] = torch.where(raw[-1] > 0, raw[-1], torch.tensor(0.1).logit())
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(48.0), indexing="ij")
    for top, left in ((4, 13), (4, 29), (20, 13), (20, 29)):
        here = (slice(top, top + 8), slice(left, left + 6))
        raw[(-1, *here)] = torch.tensor(0.6).logit()
        raw[(slice(0, 2), *here)] = torch.stack([top + 3.5 - y[here], left + 2.5 - x[here]]) / 4
    return sample


def tuner(tmp_path, search, start=None, volumes=5, partly_labelled=True, **arguments):
    keywords = {
        "keys": "pred",
        "decoder": Decoder(2, objectness=True, coordinate_scale=4.0),
        **(start or {}),
    }
    keywords = {name: value for name, value in keywords.items() if value is not None}
    clustering = functools.partial(ClusterEmbeddingsd, **keywords)
    dataset = [volume(0.5 + 0.02 * number, annotated=2) for number in range(volumes)]
    return ClusteringTuner(
        dataset,
        arguments.pop("networks", [Votes()]),
        SimpleInferer(),
        clustering,
        RestoreGridd(),
        InstanceMetric(partly_labelled=partly_labelled),
        arguments.pop("score", EXPECTED),
        search,
        arguments.pop("tuned_file", str(tmp_path / "tuned.json")),
        **arguments,
    )


def test_a_mis_set_start_is_mended_and_written_as_an_overlay(tmp_path, capsys):
    search = [
        {"id": "objectness_threshold", "values": [0.1, 0.4, 0.9]},
        {"id": "clustering::seed_objectness", "values": [0.3, 0.5]},
    ]
    made = tuner(tmp_path, search, {"objectness_threshold": 0.9, "seed_objectness": 0.3})
    assert made.run() == {"objectness_threshold": 0.4, "clustering#seed_objectness": 0.3}
    assert json.loads((tmp_path / "tuned.json").read_text()) == {
        "objectness_threshold": 0.4,
        "clustering#seed_objectness": 0.3,
    }
    printed = capsys.readouterr().out
    assert "expected_ap_50" in printed and "taken" in printed and "instead of 0.9" in printed


def test_volumes_are_embedded_once_and_spread_over_the_dataset(tmp_path):
    network = Votes()
    made = tuner(
        tmp_path,
        [{"id": "objectness_threshold", "values": [0.2, 0.3, 0.4, 0.5]}],
        {"objectness_threshold": 0.4},
        networks=[network],
        max_volumes=3,
    )
    samples = made.embed(tmp_path)
    assert network.calls == 3
    for sample, number in zip(samples, (0, 2, 4), strict=True):
        assert torch.equal(torch.as_tensor(sample["pred"]), made.dataset[number]["image"].as_tensor())
        assert isinstance(sample["pred"], np.memmap)
    made.tune(samples)
    assert network.calls == 3


def test_scores_are_those_on_the_grid_of_the_label(tmp_path):
    made = tuner(tmp_path, [{"id": "objectness_threshold", "values": [0.4]}])
    made.dataset = [volume(0.8, annotated=2) for _ in range(2)]
    for sample in made.dataset:
        sample["label"] = MetaTensor(sample["label"].repeat_interleave(2, 1).repeat_interleave(2, 2))
        sample["image"].meta |= {GRID_SHAPE: torch.tensor((64, 96)), GRID_AFFINE: torch.eye(4)}
    samples = made.embed(tmp_path)
    assert min(image["annotated_dice"] for image in made.details(samples, {"objectness_threshold": 0.4})) > 0.9


def test_the_second_network_reaches_the_clustering(tmp_path):
    made = tuner(
        tmp_path,
        [{"id": "objectness_threshold", "values": [0.4]}],
        {"teacher_key": "second_pred", "method": "consistency"},
        networks=[Votes(), Votes()],
    )
    samples = made.embed(tmp_path)
    assert min(image["annotated_dice"] for image in made.details(samples, {"objectness_threshold": 0.4})) > 0.9


def test_parameters_outside_the_config_start_at_the_methods_default(tmp_path):
    search = [
        {"id": "clustering#merge_distance", "values": [1.0]},
        {"id": "clustering#min_confidence", "values": [0.1]},
    ]
    assert tuner(tmp_path, search).start == {"clustering#merge_distance": 1.0, "clustering#min_confidence": 0.0}


@pytest.mark.parametrize("wrong", ["clustering#bandwidth", "objectness_treshold"])
def test_what_the_clustering_does_not_take_is_refused_before_any_work(tmp_path, wrong):
    with pytest.raises(SpocoError, match=f"{wrong} is no parameter .* merge_distance"):
        tuner(tmp_path, [{"id": wrong, "values": [1]}])


def test_volumes_without_annotated_objects_are_refused(tmp_path):
    made = tuner(tmp_path, [{"id": "objectness_threshold", "values": [0.4]}])
    made.dataset = [volume(0.6, annotated=0)]
    with pytest.raises(SpocoError, match="annotate at least one"):
        made.run()
    assert not (tmp_path / "tuned.json").exists()


def test_false_objects_in_unlabeled_space_count_as_far_as_objects_are_annotated(tmp_path):
    search = [{"id": "objectness_threshold", "values": [0.5, 0.7]}]
    made = tuner(tmp_path, search, {"objectness_threshold": 0.5}, score="partly_labelled_score")
    made.dataset = [beside_specks(annotated=2) for _ in range(3)]
    assert made.search_best()[0] == {"objectness_threshold": 0.5}  # the specks are as large as objects may be
    made.score = EXPECTED
    assert made.search_best()[0] == {"objectness_threshold": 0.7}
    # six objects of which two are annotated, and four specks
    low, high = (made.details(made.embed(tmp_path), {"objectness_threshold": value}) for value in (0.5, 0.7))
    shares = annotated_shares([low, high])
    assert shares == [pytest.approx(1 / 3)] * 3 and annotated_shares([low]) == [pytest.approx(1 / 5)] * 3
    assert made.scores(low, shares) == pytest.approx(2 / (2 + 10 / 3 - 2)) and made.scores(
        high, shares
    ) == pytest.approx(1)


@pytest.mark.parametrize(("partly_labelled", "score"), [(False, "ap_50"), (False, "sbd"), (True, "recall_50")])
def test_any_score_of_the_metric_may_be_maximized(tmp_path, partly_labelled, score):
    search = [{"id": "objectness_threshold", "values": [0.4]}]
    made = tuner(tmp_path, search, {"objectness_threshold": 0.9}, score=score, partly_labelled=partly_labelled)
    made.dataset = [volume(0.8, annotated=6) for _ in range(2)]
    tuned, trials = made.search_best()
    assert tuned == {"objectness_threshold": 0.4} and trials[0].score > 0.8


def test_few_annotated_objects_choose_nothing(tmp_path):
    search = [{"id": "objectness_threshold", "values": [0.4]}]
    start = {"objectness_threshold": 0.9}
    assert tuner(tmp_path, search, start, min_objects=10).search_best()[0] == {"objectness_threshold": 0.4}
    assert tuner(tmp_path, search, start, min_objects=11).search_best() == ({"objectness_threshold": 0.9}, [])


def test_no_image_is_embedded_and_no_setting_tried_when_the_time_is_up(tmp_path):
    network = Votes()
    made = tuner(
        tmp_path,
        [{"id": "objectness_threshold", "values": [0.4]}],
        {"objectness_threshold": 0.9},
        networks=[network],
        minutes=1e-9,
    )
    assert made.search_best() == ({"objectness_threshold": 0.9}, [])
    assert network.calls == 1


@pytest.mark.parametrize(
    ("search", "file", "words"),
    [
        ([], "tuned.json", "search: names no parameter"),
        ([{"id": "method", "values": ["mean_shft"]}], "tuned.json", "mean_shft"),
        ([{"id": "objectness_threshold", "values": [0.4]}], "", "is a folder: name a file"),
    ],
)
def test_what_cannot_be_searched_or_written_is_refused_before_anything_is_embedded(search, file, words, tmp_path):
    with pytest.raises(SpocoError, match=words):
        tuner(tmp_path, search, tuned_file=str(tmp_path / file))

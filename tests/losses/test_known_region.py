"""Objects annotated in part: what is known of them teaches as the formulas say, and nothing else does."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from loss_crops import known_to, reference

from spoco_bundle.annotation.scope import WHOLE, annotation_scope
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.losses import SpocoLoss, sweep
from spoco_bundle.losses.sorted_crop import sort_crop

ANNOTATED_TERMS = ("pull", "push", "regularizer", "unlabeled_push", "instance")
BACKGROUND, IGNORED = 30, 31
SHAPES = {"2d": (40, 36), "3d": (14, 16, 18)}
KINDS = {"whole": 7, "slices": 40, "slices in two axes": 900, "strokes": 5, "points": 12}
# number of each outlined plane, by axis and index; two objects share the plane z = 8
PLANES = {(0, 2): 3, (0, 8): 4, (2, 14): 11}
OPTIONS = {
    "defaults": {},
    "bce": {"instance_loss": "bce"},
    "per instance": {"instance_reduction": "instance"},
    "affinity": {"instance_loss": "affinity"},
    "affinity per instance": {"instance_loss": "affinity", "instance_reduction": "instance"},
    "background": {"background_label": BACKGROUND},
    "background bce": {"background_label": BACKGROUND, "instance_loss": "bce"},
    "zero is background": {"background_label": 0},
    "ignored": {"ignore_label": IGNORED},
    "ignored affinity": {"ignore_label": IGNORED, "instance_loss": "affinity"},
    "voxel": {"anchor": "voxel"},
    "voxel bce": {"anchor": "voxel", "instance_loss": "bce"},
    "voxel affinity": {"anchor": "voxel", "instance_loss": "affinity"},
}
#: values at a time, and how many may be kept for the backward pass
CHUNKING = {"many": (1, 2**24), "again": (1, 0)}


def annotated(dims, keep=KINDS):
    """Labels (1, *spatial) and scope (1, A, *spatial) with one object of each kind to keep."""
    shape = SHAPES[dims]
    labels = torch.zeros(shape, dtype=torch.int64)
    if dims == "2d":
        drawn = {7: np.s_[4:14, 3:12], 5: np.s_[20:31, 17], 12: np.s_[33, 30]}
        outlined = {}
    else:
        drawn = {7: np.s_[0:6, 0:8, 0:6], 40: np.s_[0:12, 0:8, 8:13], 900: np.s_[5:13, 8:16, 11:17]}
        drawn |= {5: np.s_[8, 10:16, 2], 12: np.s_[13, 1, 1]}
        outlined = {40: [(0, 2), (0, 8)], 900: [(0, 8), (2, 14)]}
    for kind in keep:
        number = KINDS[kind]
        if number in drawn and number not in outlined:
            labels[drawn[number]] = number
        for axis, index in outlined.get(number, ()):
            within = torch.zeros(shape, dtype=torch.bool)
            within[drawn[number]] = True
            within.movedim(axis, 0)[:index] = within.movedim(axis, 0)[index + 1 :] = False
            labels[within] = number
    labels[..., :3, -4:], labels[..., 3:6, -3:] = BACKGROUND, IGNORED
    scope = torch.zeros(3 if dims == "3d" else 1, *shape, dtype=torch.int16)
    for (axis, index), plane in PLANES.items() if dims == "3d" else ():
        holders = [number for number, planes in outlined.items() if (axis, index) in planes]
        here = (labels == 0) | (labels == BACKGROUND) | (labels == IGNORED)
        here |= torch.isin(labels, torch.tensor(holders))
        here.movedim(axis, 0)[:index] = here.movedim(axis, 0)[index + 1 :] = False
        scope[axis][here] = plane
    scope[:, labels == KINDS["whole"]] = -1
    return labels[None], scope[None]


def embedded(labels, channels=4, spread=0.4, seed=0):
    """Embeddings (1, E, *spatial) around one centre per label."""
    torch.manual_seed(seed)
    centres = spread * torch.randn(901, channels, dtype=torch.float64)
    return centres[labels].movedim(-1, 1) + 0.4 * torch.randn(1, channels, *labels.shape[1:], dtype=torch.float64)


def make_crop(dims, keep=KINDS, **options):
    """Embeddings, labels and scope; what is not named as background or ignored is unlabeled."""
    labels, scope = annotated(dims, keep)
    for special, name in ((BACKGROUND, "background_label"), (IGNORED, "ignore_label")):
        if options.get(name) != special:
            labels[labels == special] = 0
    return embedded(labels), labels, scope


def terms_and_gradients(embeddings, labels, scope, teacher=None, **options):
    leaf = embeddings.clone().requires_grad_()
    terms = SpocoLoss(**options)(leaf, labels, teacher, seeds=[3] * len(labels), scope=scope)
    return {
        name: (value.detach(), torch.autograd.grad(value, leaf, retain_graph=True)[0]) for name, value in terms.items()
    }


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize(
    ("name", "chunking"),
    [*((name, "one chunk") for name in OPTIONS), *product(("defaults", "bce"), CHUNKING)],
)
def test_values_and_gradients_of_all_kinds_equal_brute_force(monkeypatch, dims, name, chunking):
    values, kept = CHUNKING.get(chunking, (2**18, 2**24))
    monkeypatch.setitem(sweep.CHUNK_VALUES, "cpu", values)
    monkeypatch.setattr(sweep, "KEPT_VALUES", kept)
    options = OPTIONS[name]
    embeddings, labels, scope = make_crop(dims, **options)
    assert set(KINDS.values()) - set(labels.unique().tolist()) == ({40, 900} if dims == "2d" else set())
    found = terms_and_gradients(embeddings, labels, scope, **options)
    leaf = embeddings[0].clone().requires_grad_()
    for term, wanted in reference(leaf, labels[0], scope[0], seed=3, **options).items():
        value, gradient = found[term]
        assert value.item() == pytest.approx(wanted.item(), rel=1e-9) and value > 1e-3, term
        (wanted_gradient,) = torch.autograd.grad(wanted, leaf, retain_graph=True)
        assert torch.allclose(gradient[0], wanted_gradient, rtol=1e-7, atol=1e-9 * wanted_gradient.abs().max()), term


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_each_kind_equal_finite_differences(kind):
    embeddings, labels, scope = make_crop("3d", {kind, "points"})
    torch.manual_seed(1)
    direction = torch.randn_like(embeddings)
    steps = [SpocoLoss()(embeddings + step * direction, labels, scope=scope) for step in (1e-6, -1e-6)]
    for term, (_, gradient) in terms_and_gradients(embeddings, labels, scope).items():
        slope = (steps[0][term] - steps[1][term]) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-8), term


@pytest.mark.parametrize(
    ("kind", "dims"),
    [("slices", "3d"), ("slices in two axes", "3d"), *((k, d) for k in ("strokes", "points") for d in SHAPES)],
)
@pytest.mark.parametrize("name", OPTIONS)
def test_what_an_annotation_does_not_say_gives_exactly_no_gradient(kind, dims, name):
    options = {**OPTIONS[name], "objectness": True, "objectness_unlabeled_weight": 0.0}
    embeddings, labels, scope = make_crop(dims, {kind}, **options)
    embeddings = torch.cat([embeddings, torch.randn_like(embeddings[:, :1])], 1)
    unknown = ~known_to(KINDS[kind], labels[0], scope[0], options.get("background_label"))
    for term, (_, gradient) in terms_and_gradients(embeddings, labels, scope, **options).items():
        assert not gradient[0, :, unknown].any(), term
        # and what it says of unlabeled voxels does give one
        if term == "unlabeled_push" and (kind.startswith("slices") or options.get("background_label") is not None):
            assert gradient[0, :, ~unknown & (labels[0] != KINDS[kind])].any()
    moved = embeddings.clone()
    moved[0, :, unknown] += torch.randn_like(moved[0, :, unknown])
    before, after = (SpocoLoss(**options)(e, labels, seeds=[3], scope=scope) for e in (embeddings, moved))
    for term, value in before.items():
        assert after[term].item() == pytest.approx(value.item(), rel=1e-10), term
    assert unknown.any() == (name != "zero is background")


def test_strokes_and_points_alone_push_no_unlabeled_voxel_but_each_other():
    embeddings, labels, scope = make_crop("3d", {"strokes", "points"})
    found = terms_and_gradients(embeddings, labels, scope)
    assert found["unlabeled_push"][0] == 0 and not found["unlabeled_push"][1].any()
    assert found["push"][0] > 0 and found["push"][1][0, :, labels[0] > 0].any()


def test_an_object_of_which_no_unlabeled_voxel_is_known_counts_as_one_of_them():
    embeddings, labels, scope = make_crop("3d", {"whole"})
    alone = SpocoLoss()(embeddings, labels, scope=scope)["unlabeled_push"]
    labels[0, 13, 1, 1] = 12
    scope[0, :, 13, 1, 1] = 0
    both = SpocoLoss()(embeddings, labels, scope=scope)["unlabeled_push"]
    outside = int((labels == 0).sum())
    mean = embeddings[0, :, labels[0] == 7].mean(1)
    marked = (2 - (embeddings[0, :, 13, 1, 1] - mean).norm()).clamp_min(0).square()
    assert both.item() == pytest.approx((alone * (outside + 1) - marked).item() / outside / 2)


@pytest.mark.parametrize("name", OPTIONS)
def test_whole_objects_with_scope_teach_as_without(name):
    options = {**OPTIONS[name], "objectness": True}
    embeddings, labels, _ = make_crop("3d", **options)
    scope = torch.where(labels > 0, -1, torch.arange(18).expand_as(labels))[:, None].expand(-1, 3, -1, -1, -1)
    found, wanted = (terms_and_gradients(embeddings, labels, s, embeddings * 0.9, **options) for s in (scope, None))
    for term, (value, gradient) in wanted.items():
        assert torch.equal(found[term][0], value) and torch.equal(found[term][1], gradient), term


@pytest.mark.parametrize("name", ["defaults", "bce", "affinity", "background"])
def test_numbers_of_objects_and_planes_do_not_matter(name):
    options = {**OPTIONS[name], "objectness": True, "objectness_target": "interior"}
    embeddings, labels, scope = make_crop("3d", **options)
    before = terms_and_gradients(embeddings, labels, scope, **options)
    renamed = labels.clone()
    for old, new in {7: 2_000_000, 40: 3, 900: 41, 5: 901, 12: 8}.items():
        renamed[labels == old] = new
    renumbered = scope.clone()
    for old, new in {3: 200, 4: 1, 11: 3}.items():
        renumbered[scope == old] = new
    after = terms_and_gradients(embeddings, renamed, renumbered, **options)
    for term, (value, gradient) in before.items():
        assert after[term][0].item() == pytest.approx(value.item(), rel=1e-12), term
        assert torch.allclose(after[term][1], gradient, rtol=1e-9, atol=1e-12), term


def test_planes_of_one_number_in_two_channels_are_two_planes():
    labels, scope = torch.zeros(1, 4, 4, 4, dtype=torch.int64), torch.zeros(1, 3, 4, 4, 4, dtype=torch.int16)
    labels[0, 1, 2, 2] = 6
    scope[0, 0, 1] = scope[0, 2, :, :, 3] = 5
    scope[0, :, 3, 3, 2] = WHOLE  # an unlabeled voxel, as of an object whose label was taken away
    crop = sort_crop(labels[0], scope=scope[0])
    known = crop.region.rows(slice(None), slice(None))[:, 0]
    assert sorted(crop.order[: crop.outside][known].tolist()) == [i for i in range(16, 32) if i != 26]
    assert crop.known_outside.tolist() == [15]


def test_the_consistency_term_does_not_know_of_scope():
    embeddings, labels, scope = make_crop("3d")
    with_scope, without = (
        terms_and_gradients(embeddings, labels, s, 0.8 * embeddings)["consistency"] for s in (scope, None)
    )
    assert torch.equal(with_scope[0], without[0]) and torch.equal(with_scope[1], without[1]) and without[0] > 0


def test_crops_of_a_batch_keep_to_their_own_scope():
    crops = [make_crop("3d", keep) for keep in ({"whole"}, KINDS, {"points"}, ())]
    batch = [torch.cat(parts) for parts in zip(*crops, strict=True)]
    batch[2][0, :, batch[1][0] == 0] = 4  # unlabeled voxels of planes that no object here is outlined in
    criterion = SpocoLoss()
    together = criterion(*batch[:2], seeds=range(4), scope=batch[2])
    alone = [criterion(*crop[:2], seeds=[i], scope=crop[2] if i else None) for i, crop in enumerate(crops)]
    for term, value in together.items():
        assert value.item() == pytest.approx(sum(one[term].item() for one in alone) / 4, rel=1e-12), term


def test_a_crop_of_one_voxel_objects_of_every_kind_is_defined():
    labels = torch.tensor([[[1, 2], [3, 0]]])
    scope = torch.tensor([[[[-1, 0], [4, 4]]]])
    embeddings = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    for name in ("defaults", "bce", "affinity", "affinity per instance", "voxel"):
        for term, (value, gradient) in terms_and_gradients(embeddings, labels, scope, **OPTIONS[name]).items():
            assert torch.isfinite(value) and torch.isfinite(gradient).all(), term


def test_scope_of_annotated_ids_is_read_as_it_is_meant():
    ids = np.zeros((6, 7, 8), dtype=np.int64)
    ids[1:3, 1:3, 1:3], ids[4, 3:6, 2:5], ids[:, 5, 7] = 2, 9, 4
    scope = torch.from_numpy(annotation_scope(ids, {9: "slices", 4: "strokes"}, "whole"))
    crop = sort_crop(torch.from_numpy(ids), scope=scope)
    outside = int((ids == 0).sum())
    in_plane = int((ids[4] == 0).sum())
    assert crop.known_outside.tolist() == [outside, 0, in_plane]


@pytest.mark.parametrize(
    ("options", "change", "word"),
    [
        ({"supervision": "dense"}, lambda scope: scope, "dense"),
        ({}, lambda scope: scope[:, 0], "scope has shape"),
        ({}, lambda scope: scope[..., 1:], "scope has shape"),
        ({}, lambda scope: scope - 5, "scope holds -6"),
    ],
    ids=["dense", "no channel", "another shape", "below whole"],
)
def test_scope_that_does_not_fit_is_refused(options, change, word):
    embeddings, labels, scope = make_crop("3d")
    with pytest.raises(SpocoError, match=word):
        SpocoLoss(**options)(embeddings, labels, scope=change(scope))

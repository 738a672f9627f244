"""The whole loss against brute force, by finite differences, and in its edge cases."""

from __future__ import annotations

import pytest
import torch
from loss_crops import TERMS, make_crop, reference, terms_and_gradient

from spoco_bundle.losses import SpocoLoss
from spoco_bundle.losses.sweep import CHUNK_VALUES

SHAPES = {"2d": (30, 35), "3d": (9, 11, 12)}
OPTIONS = {
    "defaults": {},
    "bce": {"instance_loss": "bce"},
    "per instance": {"instance_reduction": "instance"},
    "affinity": {"instance_loss": "affinity"},
    "affinity per instance, far offsets": {"instance_loss": "affinity", "instance_reduction": "instance", "far": True},
    "dense": {"supervision": "dense"},
    "dense bce": {"supervision": "dense", "instance_loss": "bce"},
    "background": {"background_label": 900},
    "zero is background": {"background_label": 0},
    "ignored": {"ignore_label": 900},
    "ignored affinity": {"ignore_label": -1, "instance_loss": "affinity"},
    "coordinates": {"coordinate_channels": 2},
    "tight kernel": {"kernel_threshold": 0.9, "delta_var": 0.7, "delta_dist": 1.5},
}


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("few", [True, False], ids=["many chunks", "one chunk"])
def test_values_and_gradients_equal_brute_force(monkeypatch, dims, name, few):
    if few:
        monkeypatch.setitem(CHUNK_VALUES, "cpu", 1)
    options, shape = dict(OPTIONS[name]), SHAPES[dims]
    if options.pop("far", False):
        flat = [0] * (len(shape) - 2)
        options["affinity_offsets"] = [flat + [2, -3], [1] * len(shape), flat + [0, 50]]  # the last beyond the crop
    embeddings, labels, _ = make_crop(shape, ignored=-1 if options.get("ignore_label") == -1 else 0)
    leaf = embeddings[0].clone().requires_grad_()
    expected = reference(leaf, labels[0], **options)
    for term, wanted in expected.items():
        value, gradient = terms_and_gradient(term, embeddings, labels, **options)
        assert value.item() == pytest.approx(wanted.item(), rel=1e-9, abs=1e-12), term
        if not wanted.requires_grad:
            assert not gradient.any()
            continue
        (wanted_gradient,) = torch.autograd.grad(wanted, leaf, retain_graph=True)
        assert torch.allclose(gradient[0], wanted_gradient, rtol=1e-7, atol=1e-9 * wanted_gradient.abs().max()), term


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize(
    ("term", "options"),
    # of all others the gradients equal those of the formulas
    [
        ("consistency", {}),
        ("consistency", {"consistency_reduction": "instance"}),
        ("instance", {"anchor": "voxel"}),
        ("instance", {"anchor": "voxel", "instance_loss": "bce"}),
    ],
    ids=str,
)
def test_gradients_equal_finite_differences(dims, term, options):
    shape = {"2d": (4, 6), "3d": (2, 3, 4)}[dims]
    embeddings, labels, teacher = make_crop(shape, channels=2, spread=0.5, seed=3)
    criterion = SpocoLoss(**{f"{name}_weight": float(name == term) for name in TERMS}, **options)
    assert criterion(embeddings, labels, teacher, seeds=[4])[term] > 1e-3

    def value(leaf):
        return criterion(leaf, labels, teacher, seeds=[4])[term]

    assert torch.autograd.gradcheck(value, embeddings.requires_grad_(), eps=1e-6, atol=1e-6)


def edge_case(name, dims):
    embeddings, labels, teacher = make_crop({"2d": (6, 8), "3d": (3, 6, 6)}[dims], channels=3, spread=0.5)
    if name == "no object":
        labels[:] = 0
    elif name == "one object":
        labels[labels > 7] = 0
        labels[labels == 5] = 0
    elif name == "no unlabeled voxel":
        labels[labels == 0] = 3
    elif name == "objects of one voxel":
        labels[:] = 0
        labels.view(-1)[:4] = torch.tensor([3, 9, 27, 81])
    elif name == "identical embeddings":
        embeddings[:], teacher = 0.25, torch.full_like(teacher, 0.25)
    elif name == "255 objects":
        embeddings, labels, teacher = make_crop((16, 20) if dims == "2d" else (4, 8, 10), channels=3, spread=0.5)
        labels = torch.arange(labels.numel()).sub(64).clamp(0, 255).reshape(labels.shape)
    elif name == "everything ignored":
        labels[:] = -1
    return embeddings, labels, teacher


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize(
    "name",
    [
        "no object",
        "one object",
        "no unlabeled voxel",
        "objects of one voxel",
        "identical embeddings",
        "255 objects",
        "everything ignored",
    ],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"instance_loss": "bce"}, {"instance_loss": "affinity"}, {"anchor": "voxel"}, {"supervision": "dense"}],
    ids=str,
)
def test_edge_cases_are_defined(name, dims, options):
    embeddings, labels, teacher = edge_case(name, dims)
    criterion = SpocoLoss(ignore_label=-1, **options)
    leaf = embeddings.requires_grad_()
    terms = criterion(leaf, labels, teacher, seeds=[0])
    for term, value in terms.items():
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        assert torch.isfinite(value) and torch.isfinite(gradient).all(), term
    zero = {
        "no object": {"pull", "push", "regularizer", "instance", "unlabeled_push"},
        "one object": {"push"},
        "no unlabeled voxel": {"unlabeled_push", "consistency"},
        "everything ignored": set(TERMS),
    }.get(name, set())
    if options.get("supervision") == "dense":
        # the background is a cluster, so there is a first or second one more
        zero = {"unlabeled_push", "consistency"} | (set(TERMS) if name == "everything ignored" else set())
    for term in zero:
        assert terms[term] == 0, term


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", ["one object", "no unlabeled voxel", "objects of one voxel", "255 objects"])
def test_edge_cases_agree_with_finite_differences(name, dims):
    embeddings, labels, teacher = edge_case(name, dims)
    criterion = SpocoLoss()
    torch.manual_seed(0)
    direction = torch.randn_like(embeddings)

    # along a direction, so that the objects may be many
    def at(step):
        return criterion(embeddings + step * direction, labels, teacher, seeds=[0])

    leaf = embeddings.clone().requires_grad_()
    for term, value in criterion(leaf, labels, teacher, seeds=[0]).items():
        (gradient,) = torch.autograd.grad(value, leaf, retain_graph=True)
        slope = (at(1e-6)[term] - at(-1e-6)[term]) / 2e-6
        assert (gradient * direction).sum().item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7), term


def test_objects_of_one_voxel_do_not_pull():
    embeddings, labels, _ = edge_case("objects of one voxel", "3d")
    assert SpocoLoss()(embeddings, labels)["pull"] == 0


def test_identical_embeddings_have_the_values_of_the_formulas():
    embeddings, labels, teacher = edge_case("identical embeddings", "3d")
    terms = SpocoLoss()(embeddings, labels, teacher)
    assert terms["push"].item() == pytest.approx(16)
    assert terms["unlabeled_push"].item() == pytest.approx(4)
    assert terms["consistency"].item() == pytest.approx(0, abs=1e-12)
    voxels, objects, labelled = labels.numel(), 4, int((labels > 0).sum())
    assert terms["instance"].item() == pytest.approx(1 - 2 * labelled / (voxels * objects + labelled))

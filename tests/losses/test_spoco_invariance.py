"""What the whole loss depends on and what not: batch, ids, motions, precision, seeds; and what it refuses."""

from __future__ import annotations

import pytest
import torch
from loss_crops import TERMS, make_crop
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.losses import SpocoLoss


@pytest.mark.parametrize("options", [{}, {"objectness": True}, {"instance_loss": "bce"}, {"anchor": "voxel"}], ids=str)
def test_every_item_and_every_term_contributes_gradient(options):
    batch = 3
    embeddings, labels, teacher = make_crop((8, 9, 10), channels=5, batch=batch, dtype=torch.float32)
    leaf = embeddings.requires_grad_()
    terms = SpocoLoss(**options)(leaf, labels, teacher)
    names = [*TERMS, *(["objectness"] if options.get("objectness") else [])]
    assert set(terms) == {*names, "loss"}
    for term in [*names, "loss"]:
        (gradient,) = torch.autograd.grad(terms[term], leaf, retain_graph=True)
        for item in range(batch):
            assert gradient[item].abs().max() > 1e-9, (term, item)


def test_the_batch_value_is_the_mean_over_all_items_with_and_without_objects():
    embeddings, labels, teacher = make_crop((8, 9, 10), batch=3)
    labels[1] = 0
    criterion = SpocoLoss()
    together = criterion(embeddings, labels, teacher, seeds=[5, 6, 7])
    alone = [criterion(embeddings[i : i + 1], labels[i : i + 1], teacher[i : i + 1], seeds=[5 + i]) for i in range(3)]
    for term, value in together.items():
        assert value.item() == pytest.approx(sum(each[term].item() for each in alone) / 3, rel=1e-12), term


def test_the_total_is_the_weighted_sum_and_a_weight_of_zero_switches_a_term_off():
    embeddings, labels, teacher = make_crop((8, 9, 10), channels=5)
    names = (*TERMS, "objectness")
    weights = dict(zip(names, (0.5, 2.0, 3.0, 0.25, 0.125, 7.0, 1.5), strict=True))
    arguments = {f"{name}_weight": weight for name, weight in weights.items()}
    terms = SpocoLoss(objectness=True, **arguments)(embeddings, labels, teacher, seeds=[0])
    assert terms["loss"].item() == pytest.approx(sum(weights[name] * terms[name].item() for name in names))
    for name in names:
        off = SpocoLoss(objectness=True, **{**arguments, f"{name}_weight": 0.0})(embeddings, labels, teacher, seeds=[0])
        assert off[name] == 0
        assert off["loss"].item() == pytest.approx((terms["loss"] - weights[name] * terms[name]).item())
        assert all(torch.equal(off[other], terms[other]) for other in names if other != name)


@pytest.mark.parametrize("options", [{}, {"supervision": "dense"}, {"background_label": 900}], ids=str)
def test_ids_and_the_order_of_voxels_do_not_matter(options):
    embeddings, labels, _ = make_crop((6, 7, 8))
    criterion = SpocoLoss(**options)
    before = criterion(embeddings, labels)
    renamed = labels.clone()
    for old, new in {7: 2_000_000_000, 40: 3, 5: 41}.items():
        renamed[labels == old] = new
    order = torch.randperm(labels[0].numel())
    shuffled = embeddings.flatten(2)[..., order].reshape(embeddings.shape)
    shuffled_labels = renamed.flatten(1)[..., order].reshape(labels.shape)
    for after in (criterion(embeddings, renamed), criterion(shuffled, shuffled_labels)):
        for term, value in before.items():
            assert after[term].item() == pytest.approx(value.item(), rel=1e-12), term


def test_motions_of_the_embedding_space_do_not_matter():
    embeddings, labels, teacher = make_crop((6, 7, 8))
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    moved, moved_teacher = (torch.einsum("ij,bj...->bi...", rotation, field) + 3 for field in (embeddings, teacher))
    before = SpocoLoss()(embeddings, labels, teacher, seeds=[0])
    after = SpocoLoss()(moved, labels, moved_teacher, seeds=[0])
    for term in set(TERMS) - {"regularizer"}:
        assert after[term].item() == pytest.approx(before[term].item(), rel=1e-9), term


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
def test_labels_of_any_type_with_or_without_channel(dtype):
    embeddings, labels, _ = make_crop((6, 7, 8))
    labels[labels == 900] = 200
    expected = SpocoLoss()(embeddings, labels)
    typed = SpocoLoss()(MetaTensor(embeddings), MetaTensor(labels.to(dtype)[:, None]))
    assert all(type(value) is torch.Tensor and torch.equal(value, expected[term]) for term, value in typed.items())


@pytest.mark.parametrize("magnitude", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"instance_loss": "bce"}, {"instance_loss": "affinity"}, {"objectness": True}], ids=str
)
def test_loss_and_gradients_are_finite_for_small_and_large_embeddings(magnitude, autocast, options):
    embeddings, labels, teacher = make_crop((8, 9, 10), channels=5, batch=2, dtype=torch.float32)
    dtype = torch.bfloat16 if autocast else torch.float32
    leaf = (magnitude * embeddings).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        terms = SpocoLoss(**options)(leaf, labels, (magnitude * teacher).to(dtype))
    terms["loss"].backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert torch.isfinite(leaf.grad).all() and leaf.grad.any()


@pytest.mark.parametrize("labelled", [False, True])
def test_what_is_not_a_number_shows_in_the_loss(labelled):
    embeddings, labels, teacher = make_crop((8, 9, 10))
    if not labelled:
        labels[:] = 0
    embeddings[0, 0, 4, 4, 4] = torch.nan
    assert SpocoLoss()(embeddings, labels, teacher)["loss"].isnan()


def test_distances_stay_in_float32_under_autocast():
    embeddings, labels, teacher = make_crop((8, 9, 10), dtype=torch.float32)
    outside = SpocoLoss()(embeddings, labels, teacher, seeds=[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = SpocoLoss()(embeddings, labels, teacher, seeds=[0])
        rounded = SpocoLoss()(embeddings.bfloat16(), labels, teacher.bfloat16(), seeds=[0])
    for term, value in outside.items():
        assert inside[term].dtype == torch.float32 and torch.equal(inside[term], value), term
    exact = SpocoLoss()(embeddings.bfloat16().float(), labels, teacher.bfloat16().float(), seeds=[0])
    assert all(torch.equal(rounded[term], value) for term, value in exact.items())


def test_gradients_stay_in_float32_when_backward_runs_under_autocast():
    embeddings, labels, teacher = make_crop((8, 9, 10), dtype=torch.float32)
    gradients = []
    for inside in (False, True):
        leaf = embeddings.clone().requires_grad_()
        loss = SpocoLoss()(leaf, labels, teacher, seeds=[0])["loss"]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
            loss.backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_float32_agrees_with_float64_far_from_the_origin():
    embeddings, labels, teacher = make_crop((8, 9, 10))
    embeddings, teacher = embeddings.float() + 300, teacher.float() + 300
    single = SpocoLoss(regularizer_weight=0)(embeddings, labels, teacher, seeds=[0])
    double = SpocoLoss(regularizer_weight=0)(embeddings.double(), labels, teacher.double(), seeds=[0])
    for term, value in double.items():
        assert single[term].item() == pytest.approx(value.item(), rel=1e-4), term


def test_the_same_seed_gives_the_same_bits_and_the_global_generator_is_left_alone():
    embeddings, labels, teacher = make_crop((8, 9, 10), dtype=torch.float32)
    criterion = SpocoLoss(anchor="voxel")
    results = []
    for _ in range(2):
        leaf = embeddings.clone().requires_grad_()
        state = torch.get_rng_state()
        terms = criterion(leaf, labels, teacher, seeds=torch.tensor([11]))
        assert torch.equal(torch.get_rng_state(), state)
        terms["loss"].backward()
        results.append((terms, leaf.grad))
    assert torch.equal(results[0][1], results[1][1])
    other = criterion(embeddings, labels, teacher, seeds=[12])
    assert other["instance"] != results[0][0]["instance"] and other["consistency"] != results[0][0]["consistency"]


def test_no_gradient_reaches_the_teacher():
    embeddings, labels, teacher = make_crop((8, 9, 10))
    teacher.requires_grad_()
    SpocoLoss()(embeddings.requires_grad_(), labels, teacher)["loss"].backward()
    assert teacher.grad is None


def test_known_background_is_pushed_but_never_an_anchor():
    embeddings, labels, teacher = make_crop((8, 9, 10))
    unknown = SpocoLoss()(embeddings, labels, teacher)
    known = SpocoLoss(background_label=0)(embeddings, labels, teacher)
    assert unknown["consistency"] > 0 and known["consistency"] == 0
    for term in set(TERMS) - {"consistency"}:
        assert torch.equal(known[term], unknown[term]), term


def test_ignored_voxels_count_nowhere():
    embeddings, labels, teacher = make_crop((8, 9, 10))
    labels[:, :, 2:5] = -1
    criterion = SpocoLoss(ignore_label=-1)
    leaf = embeddings.clone().requires_grad_()
    terms = criterion(leaf, labels, teacher, seeds=[0])
    terms["loss"].backward()
    assert not leaf.grad[:, :, :, 2:5].any()
    embeddings[:, :, :, 2:5] = 50
    teacher[:, :, :, 2:5] = -50
    changed = criterion(embeddings, labels, teacher, seeds=[0])
    assert all(torch.equal(changed[term], value) for term, value in terms.items())


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"supervision": "some"}, "supervision"),
        ({"instance_loss": "iou"}, "instance_loss"),
        ({"anchor": "median"}, "anchor"),
        ({"anchor_sampling": "grid"}, "anchor_sampling"),
        ({"instance_reduction": "sum"}, "instance_reduction"),
        ({"pull_weight": -1.0}, "pull_weight"),
        ({"delta_dist": 0.0}, "delta_dist"),
        ({"kernel_threshold": 1.0}, "kernel_threshold"),
        ({"supervision": "dense", "background_label": 3}, "background_label"),
        ({"supervision": "dense", "coordinate_channels": 3}, "coordinate_channels"),
        ({"ignore_label": 3, "background_label": 3}, "ignore_label"),
        ({"push_weight": float("nan")}, "push_weight"),
        ({"objectness": True, "objectness_weight": -1.0}, "objectness_weight"),
        ({"objectness_unlabeled_weight": -0.1}, "objectness_unlabeled_weight"),
        ({"objectness_shell": -1}, "objectness_shell"),
        ({"max_anchors": 0}, "max_anchors"),
        ({"sampled_voxels": 0}, "sampled_voxels"),
        ({"uncovered_fraction": 1.5}, "uncovered_fraction"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, word):
    with pytest.raises(SpocoError, match=word):
        SpocoLoss(**options)


def test_tensors_that_do_not_fit_are_refused():
    embeddings, labels, teacher = make_crop((4, 6, 6))
    with pytest.raises(SpocoError, match="negative"):
        SpocoLoss()(embeddings, labels - 1)
    with pytest.raises(SpocoError, match="labels have shape"):
        SpocoLoss()(embeddings, labels[..., :-1])
    with pytest.raises(SpocoError, match="teacher_embeddings"):
        SpocoLoss()(embeddings, labels, teacher[..., :-1])
    with pytest.raises(SpocoError, match="channels"):
        SpocoLoss(coordinate_channels=5)(embeddings, labels)

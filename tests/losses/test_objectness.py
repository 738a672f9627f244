"""The objectness target and its loss."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import ndimage

from spoco_bundle.losses import SpocoLoss
from spoco_bundle.losses.objectness import (
    BACKGROUND,
    IGNORED,
    OBJECTNESS_TARGETS,
    UNLABELED,
    objectness_loss,
    objectness_target,
)


def ball(shape=(17, 21, 21), centre=(8, 10, 10), radius=6):
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return torch.from_numpy((np.square(grid).sum(0) <= radius**2).astype(np.int64)) * 42


def test_the_target_is_one_inside_zero_in_the_shell_and_knows_nothing_beyond():
    labels = ball()
    target = objectness_target(labels)
    inside = labels > 0
    shell = torch.from_numpy(ndimage.binary_dilation(inside.numpy(), np.ones((3, 3, 3)))) & ~inside
    assert (target[inside] == 1).all() and (target[shell] == 0).all() and (target[~shell & ~inside] == UNLABELED).all()


@pytest.mark.parametrize(
    ("spacing", "shell", "steps"),
    [(None, 2, (2, 2, 2)), ((0.3, 0.3, 0.3), 2, (2, 2, 2)), ((4, 1, 1), 4, (1, 4, 4)), ((4, 1, 1), 1, (1, 1, 1))],
)
def test_the_shell_has_one_physical_width(spacing, shell, steps):
    labels = ball(radius=4)
    target = objectness_target(labels, "binary", spacing, shell)
    for axis, count in enumerate(steps):
        profile = target.movedim(axis, 0)[:, 10 if axis == 0 else 8, 10]
        assert int((profile == 0).sum()) == 2 * count
    box = torch.zeros(17, 21, 21, dtype=torch.int64)
    box[2:15, 4:17, 4:17] = 1
    inside = objectness_target(box, "interior", spacing, shell)
    for axis, count in enumerate(steps):
        profile = inside.movedim(axis, 0)[:, 10 if axis == 0 else 8, 10]
        assert int((profile == 1).sum()) == 13 - 2 * count


@pytest.mark.parametrize("shell", [0, 1, 2])
def test_interior_leaves_out_the_outermost_voxels_of_touching_objects(shell):
    torch.manual_seed(0)
    seeds = torch.randint(0, 24, (9, 3))
    grid = torch.stack(torch.meshgrid(*[torch.arange(24)] * 3, indexing="ij"), -1)
    labels = (grid[..., None, :] - seeds).square().sum(-1).argmin(-1) + 1
    labels[labels == 4] = 0  # one is not annotated
    target = objectness_target(labels, "interior", shell=shell)
    padded = np.pad(labels.numpy(), 1, mode="edge")  # beyond the crop nothing is known
    border = np.zeros(labels.shape, bool)
    for axis in range(3):
        for step in (1, -1):
            border |= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] != labels.numpy()
    inside, cube = labels.numpy() > 0, np.ones((3, 3, 3))
    border &= inside
    if shell > 1:
        border = ndimage.binary_dilation(border, cube, iterations=shell - 1)
    expected = inside & ~border if shell else inside
    assert np.array_equal(target.numpy() == 1, expected)
    around = ndimage.binary_dilation(inside, cube, iterations=shell) if shell else inside
    assert np.array_equal(target.numpy() == UNLABELED, ~around)
    assert ((target == 0) | (target == 1) | (target == UNLABELED)).all()


def test_one_voxel_and_whole_crop_objects():
    labels = torch.zeros(5, 5, dtype=torch.int64)
    labels[2, 2] = 7
    target = objectness_target(labels)
    assert target[2, 2] == 1 and (target[1:4, 1:4].sum()) == 1 and target[0, 0] == UNLABELED
    for kind in OBJECTNESS_TARGETS:
        assert (objectness_target(torch.full((4, 4), 9), kind) == 1).all()
        assert (objectness_target(torch.zeros(4, 4, dtype=torch.int64), kind) == UNLABELED).all()


@pytest.mark.parametrize("kind", OBJECTNESS_TARGETS)
def test_known_background_and_ignored_voxels_are_no_objects(kind):
    labels = torch.zeros(3, 12, dtype=torch.int64)
    labels[:, 4:7], labels[:, 7:9], labels[:, 11] = 3, 250, 200
    target = objectness_target(labels, kind, background_label=200, ignore_label=250)
    assert (target[:, 11] == BACKGROUND).all() and (target[:, 7:9] == IGNORED).all()
    assert (target[:, 3] == 0).all() and (target[:, :3] == UNLABELED).all() and (target[:, 5] == 1).all()
    dense = objectness_target(labels, kind, dense=True)
    assert (dense[:, :3] == BACKGROUND).all() and (dense[:, 3] == 0).all()
    assert (objectness_target(labels, kind, shell=0)[:, 3] == UNLABELED).all()
    assert (objectness_target(labels, kind, shell=2)[:, 2:4] == 0).all()
    labels[:, 3] = 200  # background beside an object is part of its shell
    assert (objectness_target(labels, kind, background_label=200)[:, 3] == 0).all()


def partly_annotated():
    """Labels (9, 18, 20) and scope: 3 is whole, 8 in the planes z = 2 and x = 13, 6 in z = 2, 5 strokes, 4 a point."""
    labels, scope = torch.zeros(9, 18, 20, dtype=torch.int64), torch.zeros(3, 9, 18, 20, dtype=torch.int16)
    scope[0, 2], scope[2, :, :, 13] = 7, 9
    labels[0:5, 0:5, 0:5] = 3
    labels[2, 8:14, 8:16] = 8
    labels[1:6, 8:14, 13] = 8
    labels[2, 8:14, 16:18] = 6
    labels[7, 2:6, 8] = 5
    labels[8, 16, 1] = 4
    scope[:, labels == 3] = -1
    scope[2][labels == 6] = 0
    scope[:, (labels == 5) | (labels == 4)] = 0
    return labels, scope


def around(voxel, steps, shape):
    """All voxels within so many steps along each axis."""
    ranges = (range(max(v - s, 0), min(v + s + 1, size)) for v, s, size in zip(voxel, steps, shape))
    return product(*ranges)


@pytest.mark.parametrize(
    ("shell", "spacing", "steps"),
    [(1, None, (1, 1, 1)), (2, None, (2, 2, 2)), (3, (3, 1, 1), (1, 3, 3)), (0, None, (0,) * 3)],
)
@pytest.mark.parametrize("kind", ["binary", "interior"])
def test_shells_of_partly_annotated_objects_stay_where_they_are_known(kind, shell, spacing, steps):
    labels, scope = partly_annotated()
    target = objectness_target(labels, kind, spacing, shell, scope=scope)
    expected = torch.full(labels.shape, IGNORED)
    expected[2] = expected[:, :, 13] = UNLABELED  # the outlined planes
    for voxel in labels.nonzero().tolist():
        own = scope[:, *voxel]
        for other in around(voxel, steps, labels.shape):
            there = scope[:, *other]
            if (own == -1).any() or ((own == there) & (own > 0)).any():
                expected[other] = 0
    unlabeled = labels == 0
    assert torch.equal(target[unlabeled], expected[unlabeled])
    assert (target[~unlabeled] >= 0).all() and (kind == "interior" or (target[~unlabeled] == 1).all())


@pytest.mark.parametrize(("shell", "grown"), [(1, 0), (2, 1)])
def test_the_layer_inside_partly_annotated_objects_lies_along_known_borders(shell, grown):
    labels, scope = partly_annotated()
    # background beside strokes, and strokes beside a slice, out of its plane
    labels[7, 6, 8], labels[4, 10, 14], labels[3, 11, 12] = 99, 99, 5
    scope[:, 3, 11, 12] = 0
    target = objectness_target(labels, "interior", shell=shell, background_label=99, scope=scope)
    layer = torch.zeros(labels.shape, dtype=torch.bool)
    objects = (labels > 0) & (labels != 99)
    for voxel in objects.nonzero().tolist():
        own = scope[:, *voxel]
        for axis, step in product(range(3), (-1, 1)):
            other = [v + step * (a == axis) for a, v in enumerate(voxel)]
            if not 0 <= other[axis] < labels.shape[axis] or labels[*other] == labels[*voxel]:
                continue
            in_plane = ((own == scope[:, *other]) & (own > 0)).any()
            if (own == -1).any() or in_plane or ((own > 0).any() and labels[*other] > 0):
                for near in around(voxel, (grown,) * 3, labels.shape):
                    if (own == -1).any() or ((own == scope[:, *near]) & (own > 0)).any():
                        layer[near] = True
    assert torch.equal(target[objects] == 0, layer[objects])
    assert (target[objects & (labels != 3)] == 0).any() and (target[labels == 5] == 1).all()
    # in the plane: its rim; where another object touches; and beside what else is annotated
    assert target[2, 8:14, 10].tolist() == [0] * shell + [1] * (6 - 2 * shell) + [0] * shell
    assert target[2, 11, 15] == target[2, 11, 16] == target[4, 10, 13] == target[3, 11, 13] == 0


def test_strokes_and_points_are_inside_even_beside_a_whole_object():
    labels = torch.zeros(7, 12, dtype=torch.int64)
    labels[1:6, 1:6], labels[2:5, 6], labels[3, 9] = 3, 5, 4
    scope = torch.where(labels == 3, -1, 0)[None]
    target = objectness_target(labels, "interior", shell=2, scope=scope)
    assert (target[2:5, 6] == 1).all() and target[3, 9] == 1
    assert target[3, 1:6].tolist() == [0, 0, 1, 0, 0]
    assert target[3, 10] == target[3, 11] == UNLABELED and target[3, 7] == 0


@pytest.mark.parametrize("kind", OBJECTNESS_TARGETS)
def test_a_scope_of_whole_objects_changes_nothing(kind):
    labels = ball()
    labels[8, 10, 12] = 0
    scope = torch.where(labels > 0, -1, 6)[None].expand(3, -1, -1, -1)
    assert torch.equal(objectness_target(labels, kind, shell=2, scope=scope), objectness_target(labels, kind, shell=2))


def test_each_object_counts_alike_where_labels_are_given():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([7] * 50 + [3] * 2 + [0] * 10 + [9] * 5)
    target = (torch.rand(67, generator=generator, dtype=torch.float64) > 0.5).double()
    target[54:60], target[62:] = UNLABELED, IGNORED
    logits = torch.randn(67, generator=generator, dtype=torch.float64, requires_grad=True)
    p = logits.detach().sigmoid()
    entropy = -torch.where(target > 0, p.log(), (1 - p).log())
    means = [entropy[:50].mean(), entropy[50:52].mean(), entropy[[52, 53, 60, 61]].mean()]
    value = objectness_loss(logits, target, 0.3, labels)
    assert value.item() == pytest.approx((sum(means) / 3 + 0.3 * entropy[54:60].mean()).item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(value, logits)
    expected = (p - target.clamp_min(0)) / 3
    torch.testing.assert_close(gradient[:50], expected[:50] / 50, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient[50:52], expected[50:52] / 2, rtol=1e-6, atol=0)
    assert not gradient[62:].any()
    assert objectness_loss(logits, torch.full_like(target, IGNORED), 0.3, labels) == 0


@pytest.mark.parametrize("strokes", [1, 5])
def test_loss_is_the_cross_entropy_of_objects_of_known_background_and_a_share_of_the_unlabeled(strokes):
    target = [0.25, 1.0, UNLABELED, UNLABELED, IGNORED, 0.0, *[BACKGROUND] * strokes]
    target = torch.tensor(target, dtype=torch.float64)
    logits = torch.tensor([0.3, -2.0, 1.5, -0.5, 4.0, 0.1, 0.7, 0.2, -1.0, 2.0, 0.4], dtype=torch.float64)
    logits = logits[: 6 + strokes].requires_grad_()
    p = logits.detach().sigmoid()
    near = -(target * p.log() + (1 - target) * (1 - p).log())[[0, 1, 5]].mean()
    empty = -(1 - p).log()
    background = empty[6:].sum() / max(strokes, 3)
    for weight in (0.0, 0.3, 1.0):
        value = objectness_loss(logits, target, weight)
        assert value.item() == pytest.approx((near + background + weight * empty[[2, 3]].mean()).item())
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient[4] == 0 and gradient[[0, 1, 5, 6]].all() and gradient[[2, 3]].all() == (weight > 0)
    assert torch.autograd.gradcheck(lambda leaf: objectness_loss(leaf, target), logits)
    assert objectness_loss(logits, torch.full_like(target, IGNORED)) == 0
    assert objectness_loss(logits, torch.full_like(target, BACKGROUND)).item() == pytest.approx(empty.mean().item())
    for count in (1, len(logits)):
        value = objectness_loss(logits[:count], torch.full_like(target, UNLABELED)[:count], 0.3)
        assert value.item() == pytest.approx(0.3 * empty[:count].mean().item())


@pytest.mark.parametrize("annotated", [0.05, 0.5])
@pytest.mark.parametrize("filled", [0.1, 0.6])
def test_a_relative_weight_leads_to_the_same_objectness_however_much_is_filled_or_annotated(filled, annotated):
    kinds = torch.arange(1000) < 1000 * filled  # two kinds of voxels, each of which looks alike
    target = torch.full((1000,), UNLABELED)
    target[: int(1000 * filled * annotated)] = 1
    logits = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        objectness_loss(logits[kinds.long()], target, 0.25, relative=True).backward()
        optimizer.step()
    background, objects = logits.detach().sigmoid().tolist()
    assert objects == pytest.approx(1 / (1 + 0.25), abs=0.02) and background < 0.03


@pytest.mark.parametrize("target", [[UNLABELED, UNLABELED], [1.0, IGNORED]])
def test_where_nothing_is_annotated_or_unlabeled_a_relative_weight_is_a_plain_one(target):
    logits = torch.tensor([0.3, -1.0], dtype=torch.float64, requires_grad=True)
    values = [objectness_loss(logits, torch.tensor(target), 0.25, relative=relative) for relative in (False, True)]
    assert values[0] == values[1] and torch.autograd.gradcheck(
        lambda leaf: objectness_loss(leaf, torch.tensor(target), 0.25, relative=True), logits
    )


def test_a_relative_loss_moves_the_logit_and_weighs_unlabeled_voxels_strongly():
    logits = torch.tensor([2.0, 0.0, -1.0, 3.0], dtype=torch.float64)
    target = torch.tensor([1.0, 1.0, UNLABELED, UNLABELED])
    p = logits.sigmoid()
    share = (p[2:] / p[:2].mean()).clamp_max(1).mean()  # of the unlabeled voxels, that looks like annotated ones
    q = (logits + (0.25 / share / 4).log()).sigmoid()
    wanted = -q[:2].log().mean() - 4 * (1 - q[2:]).log().mean()
    assert objectness_loss(logits, target, 0.25, relative=True).item() == pytest.approx(wanted.item())


def test_a_wide_known_background_takes_nothing_from_the_outline_of_an_object():
    labels = torch.zeros(4, 400, dtype=torch.int64)
    labels[:, 4:10] = 3
    logits = torch.zeros(4, 400, dtype=torch.float64, requires_grad=True)
    steps = []
    for width in (20, 400):
        part = labels[:, :width]
        value = objectness_loss(logits[:, :width], objectness_target(part, dense=True))
        (gradient,) = torch.autograd.grad(value, logits)
        steps.append(gradient[:, 3:11])
    torch.testing.assert_close(*steps)


def test_the_last_channel_is_the_logit_and_never_an_embedding():
    torch.manual_seed(0)
    embeddings = torch.randn(2, 5, 9, 21, 21, dtype=torch.float64, requires_grad=True)
    labels = torch.stack([ball((9, 21, 21), (4, 10, 10), 4), ball((9, 21, 21), (3, 8, 9), 5)])
    teacher = torch.randn_like(embeddings)
    criterion = SpocoLoss(objectness=True, objectness_target="interior", objectness_unlabeled_weight=0.5)
    terms = criterion(embeddings, labels, teacher, seeds=[0, 1], spacing=torch.tensor([[2.0, 1, 1]] * 2))
    plain = SpocoLoss()(embeddings[:, :4], labels, teacher[:, :4], seeds=[0, 1])
    for term in set(plain) - {"loss"}:
        assert torch.equal(terms[term], plain[term]), term
        (gradient,) = torch.autograd.grad(terms[term], embeddings, retain_graph=True)
        assert not gradient[:, 4].any(), term
    (gradient,) = torch.autograd.grad(terms["objectness"], embeddings)
    assert not gradient[:, :4].any() and gradient[0, 4].any() and gradient[1, 4].any()
    expected = [
        objectness_loss(embeddings[i, 4], objectness_target(labels[i], "interior", (2, 1, 1)), 0.5, labels[i])
        for i in range(2)
    ]
    assert terms["objectness"].item() == pytest.approx(sum(value.item() for value in expected) / 2)


@pytest.mark.parametrize("relative", [False, True])
def test_the_loss_of_a_crop_is_relative_where_that_is_asked(relative):
    embeddings = torch.randn(1, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(1, 12, 12, dtype=torch.int64)
    labels[0, 2:6, 2:6] = 3
    found = SpocoLoss(objectness=True, objectness_unlabeled_relative=relative)(embeddings, labels)["objectness"]
    wanted = objectness_loss(embeddings[0, -1], objectness_target(labels[0]), relative=relative)
    assert found.item() == pytest.approx(wanted.item())


def test_all_shells_are_one_on_known_background_too():
    labels = torch.zeros(12, 30, dtype=torch.int64)
    labels[2:8, 2:8], labels[3:6, 12:15], labels[2, 8] = 5, 7, 99  # one voxel of known background beside an object
    embeddings = torch.randn(1, 3, 12, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    options = {"objectness": True, "objectness_target": "interior", "objectness_unlabeled_weight": 0.0}
    value = SpocoLoss(background_label=99, **options)(embeddings, labels[None])["objectness"]
    target = objectness_target(labels, "interior", background_label=99)
    p = embeddings[0, -1].sigmoid()
    entropy = -torch.where(target > 0, p.log(), (1 - p).log())
    shells = (target == 0) & ~torch.isin(labels, torch.tensor([5, 7]))
    assert shells[2, 8] and not (target == BACKGROUND).any()
    groups = [labels == 5, labels == 7, shells]
    assert value.item() == pytest.approx(np.mean([entropy[group].mean().item() for group in groups]), rel=1e-6)

"""The objectness target and its loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from spoco_bundle.losses import SpocoLoss
from spoco_bundle.losses.objectness import IGNORED, OBJECTNESS_TARGETS, UNLABELED, objectness_loss, objectness_target


def ball(shape=(17, 21, 21), centre=(8, 10, 10), radius=6):
    grid = np.indices(shape) - np.reshape(centre, (3, 1, 1, 1))
    return torch.from_numpy((np.square(grid).sum(0) <= radius**2).astype(np.int64)) * 42


def test_target_is_one_at_the_centre_falls_to_the_border_and_knows_nothing_beyond_the_shell():
    labels = ball()
    target = objectness_target(labels, "distance")
    assert target[8, 10, 10] == 1
    profile = target[8, 10, 10:20]
    assert (profile[:7].diff() < 0).all() and 0 < profile[6] < 0.15
    assert profile[7] == 0 and (profile[8:] == UNLABELED).all()
    inside = labels > 0
    assert (target[inside] > 0).all() and (target[inside] <= 1).all()
    shell = torch.from_numpy(ndimage.binary_dilation(inside.numpy(), np.ones((3, 3, 3)))) & ~inside
    assert (target[shell] == 0).all() and (target[~shell & ~inside] == UNLABELED).all()
    binary = objectness_target(labels)
    assert torch.equal(binary > 0, inside) and torch.equal(binary[~inside], target[~inside])
    assert (binary[inside] == 1).all()


@pytest.mark.parametrize("spacing", [None, (2.0, 1.0, 0.5)])
def test_touching_objects_each_fall_to_their_common_border(spacing):
    # two boxes side by side: the same target as each of them alone, up to what happens at the outer sides
    labels = torch.zeros(11, 13, 22, dtype=torch.int64)
    labels[2:9, 2:11, 2:11], labels[2:9, 2:11, 11:20] = 5, 3
    both = objectness_target(labels, "distance", spacing)
    for keep in (5, 3):
        alone = objectness_target(torch.where(labels == keep, keep, 0), "distance", spacing)
        assert torch.equal(both[labels == keep], alone[labels == keep])
    assert both[5, 6, 10] < 0.3 and both[5, 6, 11] < 0.3


def test_target_equals_the_distance_transform_of_each_object_alone():
    torch.manual_seed(0)
    seeds = torch.randint(0, 30, (12, 3))
    grid = torch.stack(torch.meshgrid(*[torch.arange(30)] * 3, indexing="ij"), -1)
    distance = (grid[..., None, :] - seeds).square().sum(-1)
    labels = torch.where(distance.amin(-1) < 60, distance.argmin(-1) * 3 + 1, 0)
    spacing = (2.0, 1.0, 1.0)
    target = objectness_target(labels, "distance", spacing)
    for label in labels.unique()[1:].tolist():
        # a voxel is at the border if one of its face neighbours in the crop differs: grow by replicating the edge
        mask = np.pad((labels == label).numpy(), 1, mode="edge")
        cross = ndimage.generate_binary_structure(3, 1)
        core = ndimage.binary_erosion(mask, cross, border_value=1)[1:-1, 1:-1, 1:-1]
        border = mask[1:-1, 1:-1, 1:-1] & ~core
        depth = ndimage.distance_transform_edt(~border, sampling=spacing)[mask[1:-1, 1:-1, 1:-1]] + 0.5
        assert torch.allclose(target[labels == label], torch.from_numpy(depth / depth.max()).float())


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
    for kind in ("binary", "distance"):
        target = objectness_target(labels, kind)
        assert target[2, 2] == 1 and (target[1:4, 1:4].sum()) == 1 and target[0, 0] == UNLABELED
        assert (objectness_target(torch.full((4, 4), 9), kind) == 1).all()
        assert (objectness_target(torch.zeros(4, 4, dtype=torch.int64), kind) == UNLABELED).all()


@pytest.mark.parametrize("kind", OBJECTNESS_TARGETS)
def test_background_is_zero_ignored_counts_nowhere_and_neither_is_an_object(kind):
    labels = torch.zeros(3, 12, dtype=torch.int64)
    labels[:, 4:7], labels[:, 7:9], labels[:, 11] = 3, 250, 200
    target = objectness_target(labels, kind, background_label=200, ignore_label=250)
    assert (target[:, 11] == 0).all() and (target[:, 7:9] == IGNORED).all()
    assert (target[:, 3] == 0).all() and (target[:, :3] == UNLABELED).all() and (target[:, 5] == 1).all()
    assert (objectness_target(labels, kind, dense=True)[:, :4] == 0).all()
    assert (objectness_target(labels, kind, shell=0)[:, 3] == UNLABELED).all()
    assert (objectness_target(labels, kind, shell=2)[:, 2:4] == 0).all()


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


def test_loss_is_the_cross_entropy_of_known_voxels_and_a_share_of_the_unlabeled():
    target = torch.tensor([0.25, 1.0, UNLABELED, UNLABELED, IGNORED, 0.0], dtype=torch.float64)
    logits = torch.tensor([0.3, -2.0, 1.5, -0.5, 4.0, 0.1], dtype=torch.float64, requires_grad=True)
    p = logits.detach().sigmoid()
    known = -(target * p.log() + (1 - target) * (1 - p).log())[[0, 1, 5]].mean()
    unlabeled = -(1 - p).log()[[2, 3]].mean()
    for weight in (0.0, 0.3, 1.0):
        value = objectness_loss(logits, target, weight)
        assert value.item() == pytest.approx((known + weight * unlabeled).item())
        (gradient,) = torch.autograd.grad(value, logits)
        assert gradient[4] == 0 and gradient[[0, 1, 5]].all() and gradient[[2, 3]].all() == (weight > 0)
    assert torch.autograd.gradcheck(lambda leaf: objectness_loss(leaf, target), logits)
    assert objectness_loss(logits, torch.full_like(target, IGNORED)) == 0


def test_the_last_channel_is_the_logit_and_never_an_embedding():
    torch.manual_seed(0)
    embeddings = torch.randn(2, 5, 9, 21, 21, dtype=torch.float64, requires_grad=True)
    labels = torch.stack([ball((9, 21, 21), (4, 10, 10), 4), ball((9, 21, 21), (3, 8, 9), 5)])
    teacher = torch.randn_like(embeddings)
    criterion = SpocoLoss(objectness=True, objectness_target="distance", objectness_unlabeled_weight=0.5)
    terms = criterion(embeddings, labels, teacher, seeds=[0, 1], spacing=torch.tensor([[2.0, 1, 1]] * 2))
    plain = SpocoLoss()(embeddings[:, :4], labels, teacher[:, :4], seeds=[0, 1])
    for term in set(plain) - {"loss"}:
        assert torch.equal(terms[term], plain[term]), term
        (gradient,) = torch.autograd.grad(terms[term], embeddings, retain_graph=True)
        assert not gradient[:, 4].any(), term
    (gradient,) = torch.autograd.grad(terms["objectness"], embeddings)
    assert not gradient[:, :4].any() and gradient[0, 4].any() and gradient[1, 4].any()
    expected = [
        objectness_loss(embeddings[i, 4], objectness_target(labels[i], "distance", (2, 1, 1)), 0.5) for i in range(2)
    ]
    assert terms["objectness"].item() == pytest.approx(sum(value.item() for value in expected) / 2)

"""Crops on which the loss is tested, one of its terms with its gradient, and the terms as their formulas read."""

from __future__ import annotations

import math

import torch

from spoco_bundle.annotation.scope import WHOLE
from spoco_bundle.losses import SpocoLoss
from spoco_bundle.losses.instance import sample_members
from spoco_bundle.losses.sorted_crop import sort_crop

TERMS = ("pull", "push", "regularizer", "instance", "unlabeled_push", "consistency")


def make_crop(shape, channels=4, batch=1, dtype=torch.float64, seed=0, spread=1.0, ignored=0):
    """Embeddings around one centre per label, labels with gaps between the ids, and a teacher close by.

    A column of voxels has embeddings of its own and is labelled as `ignored`.
    """
    torch.manual_seed(seed)
    labels = torch.zeros(batch, *shape, dtype=torch.int64)
    third = shape[-1] // 3
    labels[..., : shape[-2] // 2, :third] = 7
    labels[..., : shape[-2] // 2, third : 2 * third] = 40
    labels[..., shape[-2] // 2 :, 2 * third :] = 900
    labels[..., -1, 0] = 5
    labels[..., 0, -1] = -1
    centres = spread * torch.randn(902, channels, dtype=dtype)
    embeddings = centres[labels + 1].movedim(-1, 1) + 0.4 * torch.randn(batch, channels, *shape, dtype=dtype)
    labels[labels == -1] = ignored
    return embeddings, labels, embeddings + 0.2 * torch.randn_like(embeddings)


def terms_and_gradient(term, embeddings, *args, **options):
    leaf = embeddings.clone().requires_grad_()
    value = SpocoLoss(**options)(leaf, *args)[term]
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def known_to(number, labels, scope, background=None):
    """Voxels known to an object, as the definition reads."""
    members = labels == number
    known = labels != 0
    if background is not None:
        known = known | (labels == background)
    for channel in scope:
        held = channel[members]
        if (held == WHOLE).any():
            return torch.ones_like(known)
        known = known | torch.isin(channel, held[held > 0])
    return known


def pairs_of(field, offset):
    """Products of a field (*spatial) at v and at v + offset, where both lie inside."""
    places = torch.stack(torch.meshgrid(*map(torch.arange, field.shape), indexing="ij"), -1)
    ends = places + torch.tensor(offset)
    inside = ((ends >= 0) & (ends < torch.tensor(field.shape))).all(-1)
    return field[places[inside].unbind(-1)] * field[ends[inside].unbind(-1)]


def reference(embeddings, labels, scope=None, seed=None, **options):
    """The terms of one crop, without consistency, as the formulas read: one mask per cluster, plain autograd.

    Args:
        embeddings: (E, *spatial).
        labels: (*spatial).
        scope: (A, *spatial); None where all objects are whole.
        seed: of the draw of anchors that are voxels.
        options: of the loss.
    """
    delta_var, delta_dist = options.get("delta_var", 0.5), options.get("delta_dist", 2.0)
    scale = delta_var**2 / -math.log(options.get("kernel_threshold", 0.5))
    background, ignored = options.get("background_label"), options.get("ignore_label")
    dense, dims = options.get("supervision") == "dense", labels.dim()
    ids = [number for number in labels.unique().tolist() if number not in (0, background, ignored)]
    clusters = [0] * dense + ids
    if not clusters:
        return dict.fromkeys(("pull", "push", "regularizer", "unlabeled_push", "instance"), embeddings.new_zeros(()))
    valid = torch.ones_like(labels, dtype=torch.bool) if ignored is None else labels != ignored
    outside = valid & ~torch.isin(labels, torch.tensor(clusters))
    mask = {i: labels == i for i in clusters}
    known = {i: valid if scope is None else valid & known_to(i, labels, scope, background) for i in ids}
    means = {i: embeddings[:, mask[i]].mean(1) for i in clusters}
    anchors = means
    if options.get("anchor") == "voxel":
        crop = sort_crop(labels, background_label=background, ignore_label=ignored)
        drawn = crop.order[crop.outside + sample_members(crop.counts, torch.Generator().manual_seed(seed))]
        anchors = {i: embeddings.flatten(1)[:, voxel] for i, voxel in zip(ids, drawn.tolist(), strict=True)}

    def distance(to):
        return (embeddings - to.reshape(-1, *[1] * dims)).square().sum(0).add(1e-300).sqrt()

    def hinge(x):
        return x.clamp_min(0).square()

    far = [] if dense else [hinge(delta_dist - distance(means[i]))[outside & known[i]] for i in ids]
    pairs = [hinge(2 * delta_dist - (means[i] - means[j]).norm()) for i in clusters for j in clusters if i != j]
    norms = [means[i][options.get("coordinate_channels", 0) :].norm() for i in clusters]
    terms = {
        "pull": sum(hinge(distance(means[i]) - delta_var)[mask[i]].mean() for i in clusters) / len(clusters),
        "push": sum(pairs) / max(len(pairs), 1) + 0 * embeddings.sum(),
        "regularizer": sum(norms) / len(norms),
        "unlabeled_push": sum(each.sum() / max(len(each), 1) for each in far) / len(ids) + embeddings.new_zeros(()),
    }
    kind = options.get("instance_loss", "dice")
    offsets = options.get("affinity_offsets") or torch.eye(dims, dtype=torch.int64).tolist()
    entropies, tops, bottoms = [], [], []
    for i in ids:
        d = distance(anchors[i])
        p, t = torch.exp(-(d**2) / scale) * known[i], mask[i].to(embeddings.dtype)
        if kind == "bce":
            miss = d[known[i] & ~mask[i]]
            entropy = (d[mask[i]] ** 2 / scale).sum() - torch.log1p(-torch.exp(-(miss**2) / scale)).sum()
            entropies.append(entropy / known[i].sum())
        elif kind == "affinity":
            p, t = (torch.cat([pairs_of(field, offset) for offset in offsets]) for field in (p, t))
        tops.append(2 * (p * t).sum())
        bottoms.append((p * p).sum() + (t * t).sum())
    if kind == "bce":
        terms["instance"] = sum(entropies) / len(ids)
    elif options.get("instance_reduction") == "instance":
        terms["instance"] = 1 - sum(a / b if b else a for a, b in zip(tops, bottoms, strict=True)) / len(ids)
    else:
        terms["instance"] = 1 - sum(tops) / sum(bottoms)
    return terms

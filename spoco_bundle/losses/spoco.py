"""The SPOCO loss: the weighted sum of all terms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from spoco_bundle.core.embedding_space import full_precision, kernel_scale
from spoco_bundle.core.errors import SpocoError
from spoco_bundle.core.plain_tensors import plain
from spoco_bundle.losses.consistency import SAMPLINGS, consistency_sums, draw_anchors
from spoco_bundle.losses.discriminative import cluster_means, pull, push, regularizer, unlabeled_push
from spoco_bundle.losses.instance import NO_OBJECT, NOWHERE, affinity_dice, binary_cross_entropy, dice, sample_members
from spoco_bundle.losses.objectness import OBJECTNESS_TARGETS, objectness_loss, objectness_target
from spoco_bundle.losses.sorted_crop import SortedCrop, evenly_spread, sort_crop, take_rows
from spoco_bundle.losses.sweep import AnchorSums, SweepParams, anchor_sums

TERMS = ("pull", "push", "regularizer", "instance", "unlabeled_push", "consistency")
LEAST = dict.fromkeys((f"{name}_weight" for name in (*TERMS, "objectness", "objectness_unlabeled")), 0)
LEAST |= {"objectness_shell": 0, "max_anchors": 1, "sampled_voxels": 1}
CHOICES = {
    "supervision": ("sparse", "dense"),
    "instance_loss": ("dice", "bce", "affinity"),
    "instance_reduction": ("pooled", "instance"),
    "consistency_reduction": ("pooled", "instance"),
    "anchor": ("mean", "voxel"),
    "anchor_sampling": (None, *SAMPLINGS),
    "objectness_target": OBJECTNESS_TARGETS,
}


class SpocoLoss(nn.Module):
    """Loss for pixel embeddings under sparse object-level supervision (Wolny et al., CVPR 2022).

    Terms are computed per crop and averaged over the batch; a crop that lacks what a term needs contributes 0 to it,
    with a gradient of 0. Distances are float32 under any autocast.

    Supervision. "sparse": label 0 means unknown; unlabeled voxels are pushed away from every object and take part in
    the consistency term. "dense": label 0 is the background, a cluster of its own in pull, push and regularizer, with
    neither unlabeled push nor consistency. It is no object: it has no soft mask of its own, and its voxels are
    non-members in the masks of the objects. As coordinates would spread that cluster over space, dense supervision goes
    with non-spatial embeddings only; with coordinates use `supervision="sparse", background_label=0`.

    Annotation. An object may be drawn whole, or in part: outlined and filled in some planes of a volume ("slices"),
    painted in some of its voxels ("strokes"), or marked in one voxel or a few ("points"). The `scope` of a crop tells
    which, see `known_region.py`. Whatever the kind, the annotated voxels of an object are pulled to their mean, and the
    means pushed apart. Which voxels are not of an object is known everywhere if it is whole, in the outlined planes if
    it is annotated in slices, and, for any object, where another one or the background is annotated. Only these voxels
    are pushed from its mean and count in its instance term, and only there the objectness has a shell around it: what
    an annotation does not say gives exactly no gradient. So strokes and points teach what belongs together and what
    apart, whole objects and slices also where an object ends. Unlabeled voxels take part in the consistency term
    everywhere, and in the unlabeled part of the objectness, where a crop has outlined planes in these alone. Dense
    supervision goes with whole objects only.

    Args:
        delta_var: pull ends within this distance of an object's mean.
        delta_dist: means are pushed twice this far apart, voxels outside all objects this far from every mean.
        kernel_threshold: value of the soft mask at distance `delta_var`, in (0, 1).
        coordinate_channels: number of leading embedding channels that carry coordinates. The regularizer leaves them
            out, and consistency anchors are drawn by density, see `draw_anchors`.
        supervision: "sparse" or "dense".
        background_label: id of voxels known to belong to no object (sparse supervision only). Objects push them away
            like unlabeled voxels, they are non-members in the instance term, and never consistency anchors. May be 0.
        ignore_label: id of voxels that count nowhere.
        pull_weight: weight of the pull term; a term of weight 0 is not computed and reads 0, here and below.
        push_weight: weight of the push term.
        regularizer_weight: weight of the regularizer.
        instance_weight: weight of the instance term.
        unlabeled_push_weight: weight of the unlabeled push.
        consistency_weight: weight of the consistency term.
        instance_loss: "dice", "bce" or "affinity".
        instance_reduction: Dice "pooled" over the objects of a crop or averaged per "instance".
        anchor: each object's soft mask is selected by its "mean" or by one "voxel" of it, drawn anew each time.
        affinity_offsets: voxel offsets of the affinity Dice, one integer per axis each; unit steps by default.
        max_anchors: most consistency anchors per crop.
        uncovered_fraction: anchors are drawn until less than this fraction of the crop is unlabeled and uncovered.
        anchor_sampling: "uniform" or "density"; None means density if there are coordinate channels, else uniform.
        consistency_reduction: Dice "pooled" over the anchors or averaged per "instance" (anchor).
        sampled_voxels: of more voxels that belong to no object in a crop so many are taken at most, evenly spread over
            it, and stand for all in every term but the objectness. The affinity Dice takes all, and so does a crop with
            `scope`, of which little is known.
        objectness: the last channel of the embeddings is an objectness logit.
        objectness_weight: weight of the objectness term.
        objectness_target: "binary" (1 inside objects) or "interior" (0 in their outermost voxels).
        objectness_unlabeled_weight: weight of unlabeled voxels, which count as background there, see `objectness.py`.
        objectness_unlabeled_relative: whether it is relative to the share of them that look like annotated ones.
        objectness_shell: width of the shell of target 0 around annotated objects ("interior": inside too), in voxels of
            the finest axis.

    Raises:
        SpocoError: when an argument is out of its range, or two of them contradict each other.
    """

    def __init__(
        self,
        delta_var: float = 0.5,
        delta_dist: float = 2.0,
        kernel_threshold: float = 0.5,
        coordinate_channels: int = 0,
        *,
        supervision: str = "sparse",
        background_label: int | None = None,
        ignore_label: int | None = None,
        pull_weight: float = 1.0,
        push_weight: float = 1.0,
        regularizer_weight: float = 0.001,
        instance_weight: float = 1.0,
        unlabeled_push_weight: float = 1.0,
        consistency_weight: float = 1.0,
        instance_loss: str = "dice",
        instance_reduction: str = "pooled",
        anchor: str = "mean",
        affinity_offsets: Sequence[Sequence[int]] | None = None,
        max_anchors: int = 20,
        uncovered_fraction: float = 0.05,
        anchor_sampling: str | None = None,
        consistency_reduction: str = "pooled",
        sampled_voxels: int = 2**15,
        objectness: bool = False,
        objectness_weight: float = 1.0,
        objectness_target: str = "binary",
        objectness_unlabeled_weight: float = 0.3,
        objectness_unlabeled_relative: bool = False,
        objectness_shell: int = 1,
    ) -> None:
        super().__init__()
        self.delta_var = delta_var
        self.delta_dist = delta_dist
        self.scale = kernel_scale(delta_var, kernel_threshold)
        self.coordinate_channels = coordinate_channels
        self.supervision = supervision
        self.background_label = background_label
        self.ignore_label = ignore_label
        self.weights = {
            "pull": pull_weight,
            "push": push_weight,
            "regularizer": regularizer_weight,
            "instance": instance_weight,
            "unlabeled_push": unlabeled_push_weight,
            "consistency": consistency_weight,
        }
        if objectness:
            self.weights["objectness"] = objectness_weight
        self.instance_loss = instance_loss
        self.instance_reduction = instance_reduction
        self.anchor = anchor
        self.affinity_offsets = affinity_offsets
        self.max_anchors = max_anchors
        self.uncovered_fraction = uncovered_fraction
        self.anchor_sampling = anchor_sampling
        self.consistency_reduction = consistency_reduction
        self.sampled_voxels = sampled_voxels
        self.objectness = objectness
        self.objectness_target = objectness_target
        self.objectness_unlabeled_weight = objectness_unlabeled_weight
        self.objectness_unlabeled_relative = objectness_unlabeled_relative
        self.objectness_shell = objectness_shell
        self._check()

    def _check(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpocoError(f"{name} is {getattr(self, name)!r}; choose one of {choices}")
        values = vars(self) | {f"{name}_weight": weight for name, weight in self.weights.items()}
        for name, least in LEAST.items():
            if values.get(name) is not None and not values[name] >= least:
                raise SpocoError(f"{name} is {values[name]}; give a number of at least {least}")
        if not 0 <= self.uncovered_fraction <= 1:
            raise SpocoError(f"uncovered_fraction is {self.uncovered_fraction}; give a number from 0 to 1")
        if not self.delta_dist > 0:
            raise SpocoError(f"delta_dist is {self.delta_dist}; give a number above 0 (published: 2.0)")
        if self.supervision == "dense" and self.background_label is not None:
            raise SpocoError(
                f"background_label is {self.background_label} under dense supervision, where 0 is the background; "
                "leave background_label out, or use supervision='sparse'"
            )
        if self.supervision == "dense" and self.coordinate_channels:
            raise SpocoError(
                "dense supervision makes the background one cluster, which coordinates spread over space; "
                "use supervision='sparse' with background_label=0, or coordinate_channels=0"
            )
        if self.background_label is not None and self.background_label == self.ignore_label:
            raise SpocoError(f"background_label and ignore_label are both {self.ignore_label}; give two different ids")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        teacher_embeddings: Tensor | None = None,
        seeds: Tensor | Sequence[int] | None = None,
        spacing: Tensor | Sequence[float] | None = None,
        scope: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute all terms.

        Args:
            embeddings: (B, E, *spatial), or (B, E + 1, *spatial) with the objectness logit last; 2D or 3D.
            labels: (B, 1, *spatial) or (B, *spatial) integers, ids arbitrary.
            teacher_embeddings: shape of `embeddings`, no gradient goes there; without it the consistency term is 0.
            seeds: (B,) integers that key the random draws per crop; without them torch's global generator is used.
            spacing: voxel size per axis for the objectness target, D floats or (B, D); 1 by default.
            scope: (B, A, *spatial) integers, how much each object's annotation says, see `known_region.py`; without it
                all objects are whole.

        Returns:
            Scalars: `loss`, the weighted sum, and the unweighted terms `pull`, `push`, `regularizer`, `instance`,
            `unlabeled_push`, `consistency`, and `objectness` if it is on. All are differentiable.

        Raises:
            SpocoError: when shapes do not fit, there are fewer channels than coordinates, a label is negative, or scope
                comes with dense supervision.
        """
        embeddings, labels = plain(embeddings), plain(labels)
        if labels.dim() == embeddings.dim():
            labels = labels[:, 0]
        if labels.shape != embeddings.shape[:1] + embeddings.shape[2:]:
            raise SpocoError(
                f"labels have shape {tuple(labels.shape)} and embeddings {tuple(embeddings.shape)}; "
                "batch and spatial shape have to agree"
            )
        if teacher_embeddings is not None:
            teacher_embeddings = plain(teacher_embeddings).detach()
            if teacher_embeddings.shape != embeddings.shape:
                raise SpocoError(
                    f"teacher_embeddings have shape {tuple(teacher_embeddings.shape)}, embeddings "
                    f"{tuple(embeddings.shape)}; the two views of a crop have to agree"
                )
        if scope is not None:
            scope = self._checked_scope(plain(scope), labels)
        channels = embeddings.shape[1] - self.objectness
        if channels < max(self.coordinate_channels, 1):
            raise SpocoError(
                f"{channels} embedding channels are too few for {self.coordinate_channels} coordinate channels; "
                "use more channels"
            )
        batch = len(embeddings)
        # taken apart once: a slice of each crop would cost its backward pass a zeroed copy of the batch
        fields, logits = embeddings.split([channels, int(self.objectness)], dim=1)
        crops = zip(fields.unbind(), logits.unbind(), labels, strict=True)
        sums: dict[str, Tensor] = dict.fromkeys(self.weights, 0)  # type: ignore[arg-type]
        for item, (field, logit, ids) in enumerate(crops):
            generator = None if seeds is None else torch.Generator().manual_seed(int(seeds[item]))
            teacher = None if teacher_embeddings is None else teacher_embeddings[item, :channels]
            item_scope = None if scope is None else scope[item]
            with full_precision(embeddings.device):
                terms = self._embedding_terms(field, ids, teacher, generator, item_scope)
                if self.objectness and not self.weights["objectness"]:
                    terms["objectness"] = 0 * logit.float().sum()
                elif self.objectness:
                    steps = None if spacing is None else torch.as_tensor(spacing).expand(batch, -1)[item].tolist()
                    terms["objectness"] = self._objectness_term(logit[0], ids, steps, item_scope)
            sums = {name: total + terms[name] for name, total in sums.items()}
        result = {name: total / batch for name, total in sums.items()}
        result["loss"] = torch.stack([self.weights[name] * term for name, term in result.items()]).sum()
        return result

    def _checked_scope(self, scope: Tensor, labels: Tensor) -> Tensor:
        if self.supervision == "dense":
            raise SpocoError(
                "scope says which objects are annotated in part, and dense supervision that every voxel is annotated; "
                "use supervision='sparse', or leave scope out"
            )
        if scope.dim() != labels.dim() + 1 or scope.shape[:1] + scope.shape[2:] != labels.shape:
            raise SpocoError(
                f"scope has shape {tuple(scope.shape)} and labels {tuple(labels.shape)}; give (B, A, *spatial), "
                "batch and spatial shape of the labels"
            )
        return scope

    def _embedding_terms(
        self,
        embeddings: Tensor,
        labels: Tensor,
        teacher: Tensor | None,
        generator: torch.Generator | None,
        scope: Tensor | None,
    ) -> dict[str, Tensor]:
        """All terms but objectness of one crop: embeddings and teacher (E, *spatial), labels, scope."""
        special = self.background_label, self.ignore_label
        # of what is known of an object annotated in part nothing is left out: it is little
        most = None if self.instance_loss == "affinity" or scope is not None else self.sampled_voxels
        crop = sort_crop(labels, self.supervision == "dense", *special, scope, most, generator)
        rows = take_rows(embeddings, crop.order)
        nothing = 0 * rows.sum()
        terms = dict.fromkeys(TERMS, nothing)
        wanted = {name for name in TERMS if self.weights[name] > 0}
        if len(crop.counts):
            terms |= self._annotated_terms(embeddings, rows, crop, wanted, generator)
        if teacher is not None and self.supervision == "sparse" and "consistency" in wanted:
            terms["consistency"] = self._consistency_term(rows, teacher, crop, generator)
        return terms

    def _annotated_terms(
        self,
        embeddings: Tensor,
        rows: Tensor,
        crop: SortedCrop,
        wanted: set[str],
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """All terms but consistency of a crop with at least one cluster."""
        instance = self.instance_loss if "instance" in wanted else None
        means = cluster_means(rows, crop)
        at_means = SweepParams(
            self.delta_var,
            self.delta_dist,
            self.scale,
            pull="pull" in wanted,
            hinge="unlabeled_push" in wanted,
            dice=instance == "dice" and self.anchor == "mean",
            bce=instance == "bce" and self.anchor == "mean",
            outside_weight=crop.outside_weight,
        )
        known = crop.region and crop.region.rows
        sums = anchor_sums(rows, means, crop.owner, crop.outside, at_means, known)
        terms = {}
        if "pull" in wanted:
            terms["pull"] = pull(sums.pull, crop.counts)
        if "push" in wanted:
            terms["push"] = push(means, self.delta_dist)
        if "regularizer" in wanted:
            terms["regularizer"] = regularizer(means, self.coordinate_channels)
        objects = slice(crop.background_clusters, None)
        if "unlabeled_push" in wanted and self.supervision == "sparse":
            terms["unlabeled_push"] = unlabeled_push(sums.hinge[objects], crop.known_outside)
        if instance and len(crop.counts[objects]):
            anchors = means
            if self.anchor == "voxel":
                anchors = rows[crop.outside + sample_members(crop.counts, generator)]
                at_voxels = replace(at_means, pull=False, hinge=False, dice=instance == "dice", bce=instance == "bce")
                sums = anchor_sums(rows, anchors, crop.owner, crop.outside, at_voxels, known)
            terms["instance"] = self._instance_term(embeddings, rows, crop, anchors[objects], sums)
        return terms

    def _instance_term(
        self, embeddings: Tensor, rows: Tensor, crop: SortedCrop, anchors: Tensor, sums: AnchorSums
    ) -> Tensor:
        """The instance term of a crop with at least one object; anchors (K, E)."""
        objects = slice(crop.background_clusters, None)
        pooled = self.instance_reduction == "pooled"
        if self.instance_loss == "dice":
            return dice(sums.overlap[objects], sums.squares[objects] + crop.counts[objects], pooled)
        if self.instance_loss == "bce":
            known = crop.outside_weight * crop.known_outside
            return binary_cross_entropy(sums.entropy[objects], len(rows) - crop.outside + known)
        shape = embeddings.shape[1:]
        owner = torch.full((shape.numel(),), NOWHERE, dtype=torch.int64, device=rows.device)
        owner[crop.order] = NO_OBJECT
        # a background cluster becomes -1, no object
        owner[crop.order[crop.outside :]] = crop.owner - crop.background_clusters

        def known(part: Tensor) -> Tensor:
            voxels = torch.ones(len(part), shape.numel(), dtype=torch.bool, device=rows.device)
            voxels[:, crop.order[: crop.outside]] = crop.region.rows(slice(None), part).T
            return voxels.reshape(-1, *shape)

        field, owner, known = embeddings.to(rows.dtype), owner.reshape(shape), known if crop.region else None
        return affinity_dice(field, owner, anchors, self.scale, self.affinity_offsets, pooled, known)

    def _consistency_term(
        self, rows: Tensor, teacher: Tensor, crop: SortedCrop, generator: torch.Generator | None
    ) -> Tensor:
        order, members = crop.order, len(rows) - crop.outside
        if crop.outside_weight > 1 and members:
            # voxels of objects count no more than those outside
            sample = crop.outside + evenly_spread(members, math.ceil(members / crop.outside_weight), generator)
            sample = torch.cat([torch.arange(crop.outside), sample]).to(rows.device)
            rows, order = rows.index_select(0, sample), order[sample]
        sampling = self.anchor_sampling or ("density" if self.coordinate_channels else "uniform")
        anchors = draw_anchors(
            rows[: crop.unlabeled],
            len(rows),
            self.delta_var,
            self.max_anchors,
            self.uncovered_fraction,
            sampling,
            generator=generator,
        )
        overlap, squares = consistency_sums(rows, take_rows(teacher, order), anchors, self.scale)
        return dice(overlap, squares, self.consistency_reduction == "pooled")

    def _objectness_term(
        self, logits: Tensor, labels: Tensor, spacing: Sequence[float] | None, scope: Tensor | None
    ) -> Tensor:
        dense, special = self.supervision == "dense", (self.background_label, self.ignore_label)
        target = objectness_target(
            labels, self.objectness_target, spacing, self.objectness_shell, dense, *special, scope
        )
        each = labels if self.objectness_target == "interior" else None
        if each is not None and self.background_label is not None:
            each = each.masked_fill(each == self.background_label, 0)  # all shells are one, on background or not
        return objectness_loss(
            logits, target, self.objectness_unlabeled_weight, each, self.objectness_unlabeled_relative
        )

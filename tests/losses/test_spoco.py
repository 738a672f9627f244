"""The whole loss against brute force, by finite differences, and in its edge cases."""

from __future__ import annotations

import math

import pytest
import torch
from monai.data import MetaTensor

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.losses import SpocoLoss
from spoco_bundle.losses.sweep import CHUNK_VALUES

TERMS = ("pull", "push", "regularizer", "instance", "unlabeled_push", "consistency")
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


def make_crop(shape, channels=4, batch=1, dtype=torch.float64, seed=0, spread=1.0):
    """Embeddings around one centre per label, labels with gaps between the ids, and a teacher close by."""
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
    return embeddings, labels, embeddings + 0.2 * torch.randn_like(embeddings)


def reference(embeddings, labels, far=False, **options):
    """The terms of one crop as the formulas read: one mask per cluster over all voxels, plain autograd."""
    delta_var, delta_dist = options.get("delta_var", 0.5), options.get("delta_dist", 2.0)
    scale = delta_var**2 / -math.log(options.get("kernel_threshold", 0.5))
    background, ignored = options.get("background_label"), options.get("ignore_label")
    dense = options.get("supervision") == "dense"
    valid = labels != ignored if ignored is not None else torch.ones_like(labels, dtype=torch.bool)
    ids = [i for i in labels.unique().tolist() if i not in (background, ignored, 0)]
    clusters = ([0] if dense else []) + ids
    distance, mask, means = {}, {}, {}
    for i in clusters:
        mask[i] = labels == i
        means[i] = embeddings[:, mask[i]].mean(1)
        distance[i] = (embeddings - means[i].reshape(-1, *[1] * labels.dim())).square().sum(0).add(1e-300).sqrt()
    count = len(clusters)
    outside = valid & ~torch.isin(labels, torch.tensor(clusters))

    def hinge(x):
        return x.clamp_min(0).square()

    terms = {
        "pull": sum(hinge(distance[i] - delta_var)[mask[i]].mean() for i in clusters) / count,
        "push": sum(hinge(2 * delta_dist - (means[i] - means[j]).norm()) for i in clusters for j in clusters if i != j)
        / (count * (count - 1)),
        "regularizer": sum(means[i][options.get("coordinate_channels", 0) :].norm() for i in clusters) / count,
        "unlabeled_push": embeddings.new_zeros(()),
    }
    if not dense:
        terms["unlabeled_push"] = sum(hinge(delta_dist - distance[i])[outside].mean() for i in ids) / len(ids)
    kind = options.get("instance_loss", "dice")
    if kind == "bce":
        total = 0
        for i in ids:
            hit, miss = distance[i][mask[i]], distance[i][valid & ~mask[i]]
            total = total + (hit**2 / scale).sum() - torch.log1p(-torch.exp(-(miss**2) / scale)).sum()
        terms["instance"] = total / len(ids) / valid.sum()
        return terms
    tops, bottoms = [], []
    for i in ids:
        p, t = torch.exp(-(distance[i] ** 2) / scale) * valid, mask[i].to(embeddings.dtype)
        if kind == "affinity":
            pairs = []
            for offset in offsets_for(labels.dim(), far):
                rolled = torch.stack(torch.meshgrid(*map(torch.arange, labels.shape), indexing="ij"), -1)
                ends = rolled + torch.tensor(offset)
                inside = ((ends >= 0) & (ends < torch.tensor(labels.shape))).all(-1)
                here, there = rolled[inside].unbind(-1), ends[inside].unbind(-1)
                pairs.append((p[here] * p[there], t[here] * t[there]))
            p, t = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        tops.append((p * t).sum())
        bottoms.append((p * p).sum() + (t * t).sum())
    if options.get("instance_reduction") == "instance":
        terms["instance"] = sum(1 - 2 * a / b for a, b in zip(tops, bottoms, strict=True)) / len(ids)
    else:
        terms["instance"] = 1 - 2 * sum(tops) / sum(bottoms)
    return terms


def offsets_for(dims, far):
    if not far:
        return torch.eye(dims, dtype=torch.int64).tolist()
    return [[0] * (dims - 2) + [2, -3], [1] * dims]


def split(options, dims):
    """Constructor arguments, and whether far affinity offsets are meant."""
    options = dict(options)
    if options.pop("far", False):
        options["affinity_offsets"] = offsets_for(dims, True)
    return options


def terms_and_gradient(term, embeddings, *args, **options):
    leaf = embeddings.clone().requires_grad_()
    value = SpocoLoss(**options)(leaf, *args)[term]
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("few", [True, False], ids=["many chunks", "one chunk"])
def test_values_and_gradients_equal_brute_force(monkeypatch, dims, name, few):
    if few:
        monkeypatch.setitem(CHUNK_VALUES, "cpu", 1)
    options, shape = OPTIONS[name], SHAPES[dims]
    embeddings, labels, _ = make_crop(shape)
    if options.get("ignore_label") != -1:
        labels[labels == -1] = 0
    leaf = embeddings[0].clone().requires_grad_()
    expected = reference(leaf, labels[0], **options)
    for term, wanted in expected.items():
        value, gradient = terms_and_gradient(term, embeddings, labels, **split(options, len(shape)))
        assert value.item() == pytest.approx(wanted.item(), rel=1e-9, abs=1e-12), term
        if not wanted.requires_grad:
            assert not gradient.any()
            continue
        (wanted_gradient,) = torch.autograd.grad(wanted, leaf, retain_graph=True)
        assert torch.allclose(gradient[0], wanted_gradient, rtol=1e-7, atol=1e-9 * wanted_gradient.abs().max()), term


@pytest.mark.parametrize("dims", SHAPES)
@pytest.mark.parametrize(
    ("term", "options"),
    [
        *((term, {}) for term in TERMS),
        ("instance", {"instance_loss": "bce"}),
        ("instance", {"instance_loss": "affinity"}),
        ("instance", {"anchor": "voxel"}),
        ("instance", {"anchor": "voxel", "instance_loss": "bce"}),
        ("pull", {"supervision": "dense"}),
        ("push", {"supervision": "dense"}),
    ],
    ids=str,
)
def test_gradients_equal_finite_differences(dims, term, options):
    shape = {"2d": (4, 6), "3d": (2, 3, 4)}[dims]
    embeddings, labels, teacher = make_crop(shape, channels=2, spread=0.5, seed=3)
    labels[labels == -1] = 0
    criterion = SpocoLoss(**{f"{name}_weight": float(name == term) for name in TERMS}, **options)
    assert criterion(embeddings, labels, teacher, seeds=[4])[term] > 1e-3

    def value(leaf):
        return criterion(leaf, labels, teacher, seeds=[4])[term]

    assert torch.autograd.gradcheck(value, embeddings.requires_grad_(), eps=1e-6, atol=1e-6)


def edge_case(name, dims):
    embeddings, labels, teacher = make_crop({"2d": (6, 8), "3d": (3, 6, 6)}[dims], channels=3, spread=0.5)
    labels[labels == -1] = 0
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


@pytest.mark.parametrize("options", [{}, {"objectness": True}, {"instance_loss": "bce"}, {"anchor": "voxel"}], ids=str)
def test_every_item_and_every_term_contributes_gradient(options):
    batch = 3
    embeddings, labels, teacher = make_crop((8, 9, 10), channels=5, batch=batch, dtype=torch.float32)
    labels[labels == -1] = 0
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
    labels[labels == -1] = 0
    labels[1] = 0
    criterion = SpocoLoss()
    together = criterion(embeddings, labels, teacher, seeds=[5, 6, 7])
    alone = [criterion(embeddings[i : i + 1], labels[i : i + 1], teacher[i : i + 1], seeds=[5 + i]) for i in range(3)]
    for term, value in together.items():
        assert value.item() == pytest.approx(sum(each[term].item() for each in alone) / 3, rel=1e-12), term


def test_the_total_is_the_weighted_sum_and_a_weight_of_zero_switches_a_term_off():
    embeddings, labels, teacher = make_crop((8, 9, 10), channels=5)
    labels[labels == -1] = 0
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
    labels[labels == -1] = 0
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
    labels[labels == -1] = 0
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    moved, moved_teacher = (torch.einsum("ij,bj...->bi...", rotation, field) + 3 for field in (embeddings, teacher))
    before = SpocoLoss()(embeddings, labels, teacher, seeds=[0])
    after = SpocoLoss()(moved, labels, moved_teacher, seeds=[0])
    for term in set(TERMS) - {"regularizer"}:
        assert after[term].item() == pytest.approx(before[term].item(), rel=1e-9), term


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.float32])
def test_labels_of_any_type_with_or_without_channel(dtype):
    embeddings, labels, _ = make_crop((6, 7, 8))
    labels[labels == -1] = 0
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
    labels[labels == -1] = 0
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
    labels.clamp_min_(0)
    if not labelled:
        labels[:] = 0
    embeddings[0, 0, 4, 4, 4] = torch.nan
    assert SpocoLoss()(embeddings, labels, teacher)["loss"].isnan()


def test_distances_stay_in_float32_under_autocast():
    embeddings, labels, teacher = make_crop((8, 9, 10), dtype=torch.float32)
    labels[labels == -1] = 0
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
    labels.clamp_min_(0)
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
    labels[labels == -1] = 0
    embeddings, teacher = embeddings.float() + 300, teacher.float() + 300
    single = SpocoLoss(regularizer_weight=0)(embeddings, labels, teacher, seeds=[0])
    double = SpocoLoss(regularizer_weight=0)(embeddings.double(), labels, teacher.double(), seeds=[0])
    for term, value in double.items():
        assert single[term].item() == pytest.approx(value.item(), rel=1e-4), term


def test_the_same_seed_gives_the_same_bits_and_the_global_generator_is_left_alone():
    embeddings, labels, teacher = make_crop((8, 9, 10), dtype=torch.float32)
    labels[labels == -1] = 0
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
    labels[labels == -1] = 0
    teacher.requires_grad_()
    SpocoLoss()(embeddings.requires_grad_(), labels, teacher)["loss"].backward()
    assert teacher.grad is None


def test_known_background_is_pushed_but_never_an_anchor():
    embeddings, labels, teacher = make_crop((8, 9, 10))
    labels[labels == -1] = 0
    unknown = SpocoLoss()(embeddings, labels, teacher)
    known = SpocoLoss(background_label=0)(embeddings, labels, teacher)
    assert unknown["consistency"] > 0 and known["consistency"] == 0
    for term in set(TERMS) - {"consistency"}:
        assert torch.equal(known[term], unknown[term]), term


def test_ignored_voxels_count_nowhere():
    embeddings, labels, teacher = make_crop((8, 9, 10))
    labels[labels == -1] = 0
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


def test_a_weighted_step_lowers_every_term():
    embeddings, labels, teacher = make_crop((8, 9, 10), spread=0.3)
    labels[labels == -1] = 0
    for term in TERMS:
        value, gradient = terms_and_gradient(term, embeddings, labels, teacher, [0])
        step = 1e-3 / gradient.norm()
        after = SpocoLoss()(embeddings - step * gradient, labels, teacher, [0])[term]
        assert after < value, term


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
        SpocoLoss()(embeddings, labels)
    with pytest.raises(SpocoError, match="labels have shape"):
        SpocoLoss()(embeddings, labels[..., :-1])
    with pytest.raises(SpocoError, match="teacher_embeddings"):
        SpocoLoss()(embeddings, labels.clamp_min(0), teacher[..., :-1])
    with pytest.raises(SpocoError, match="channels"):
        SpocoLoss(coordinate_channels=5)(embeddings, labels.clamp_min(0))

# Frozen, since times are compared with it: linters and formatters leave this file alone.
# ruff: noqa
# flake8: noqa
# isort: skip_file
# fmt: off
"""The loss as the formulas read: one-hot masks, one distance map per instance and per anchor. Slow on purpose."""
import math
import torch


def soft(d, dv=0.5, kt=0.5):
    return torch.exp(-d * d * -math.log(kt) / (dv * dv))


def loss(e, t, g=None, anchors=(), dv=0.5, dd=2.0):
    """e (E, *sp), t (*sp) consecutive with 0 unlabelled, g teacher, anchors flat voxel indices. Returns dict of scalars."""
    C = int(t.max())
    flat = e.reshape(e.shape[0], -1)
    onehot = torch.stack([(t == i) for i in range(C + 1)]).to(e.dtype)
    num = (e[None] * onehot[:, None]).flatten(2).sum(2)
    means = num / onehot.flatten(1).sum(1)[:, None]
    pull = sum(((torch.linalg.vector_norm(e - m.reshape(-1, *[1] * t.dim()), dim=0) - dv).clamp_min(0) ** 2 * o).sum() / o.sum()
               for m, o in zip(means[1:], onehot[1:])) / C
    maps = [torch.linalg.vector_norm(e - m.reshape(-1, *[1] * t.dim()), dim=0) for m in means[1:]]
    un = (t == 0)
    upush = sum((((dd - d) * un).clamp_min(0) ** 2).sum() / un.sum() for d in maps) / C
    p = torch.stack([soft(d) for d in maps])
    inst = 1 - 2 * (p * onehot[1:]).sum() / ((p * p).sum() + (onehot[1:] ** 2).sum())
    push = e.new_zeros(())
    if C > 1:
        dm = torch.cdist(means[1:], means[1:])
        push = ((2 * dd * (1 - torch.eye(C)) - dm).clamp_min(0) ** 2).sum() / (C * (C - 1))
    out = dict(pull=pull, push=push, unlabeled_push=upush, instance=inst)
    if g is not None and len(anchors):
        gf = g.reshape(g.shape[0], -1)
        pf = torch.stack([soft(torch.linalg.vector_norm(flat - flat[:, a:a + 1], dim=0)) for a in anchors])
        pg = torch.stack([soft(torch.linalg.vector_norm(gf - gf[:, a:a + 1], dim=0)) for a in anchors])
        out["consistency"] = 1 - 2 * (pf * pg).sum() / ((pf * pf).sum() + (pg * pg).sum())
    out["loss"] = sum(out.values())
    return out


def crop(n, shape=(48, 96, 96), E=16, seed=0, radius=10):
    torch.manual_seed(seed)
    pts = torch.rand(n, 3) * torch.tensor(shape, dtype=torch.float)
    grid = torch.stack(torch.meshgrid(*[torch.arange(s) for s in shape], indexing="ij"), -1).float().reshape(-1, 3)
    best = torch.full((len(grid),), 1e9)
    lab = torch.zeros(len(grid), dtype=torch.long)
    for i, q in enumerate(pts):
        d = (grid - q).norm(dim=1)
        m = d < best
        best[m], lab[m] = d[m], i + 1
    lab[best > radius] = 0
    lab = torch.unique(lab, return_inverse=True)[1].reshape(shape)
    c = torch.randn(int(lab.max()) + 1, E)
    e = (c[lab].movedim(-1, 0) + 0.3 * torch.randn(E, *shape))
    return e, lab, e + 0.1 * torch.randn_like(e)

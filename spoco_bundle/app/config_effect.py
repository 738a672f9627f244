"""Whether what a user sets has any effect: an option is never ignored in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from spoco_bundle.app.config_checks import PLACES, levels, references
from spoco_bundle.core.errors import SpocoError

#: what MONAI runs of a config; all else counts as far as these refer to it
_ROOTS = ("imports", "initialize", "run", "finalize")

#: id -> id that has to be neither false, 0 nor null for it to matter
_NEEDS = {
    **dict.fromkeys(
        (
            *("objectness_target", "objectness_shell", "objectness_weight", "objectness_unlabeled_weight"),
            *("objectness_unlabeled_relative", "objectness_threshold"),
        ),
        "objectness",
    ),
    **dict.fromkeys(("coordinate_scale", "coordinate_radii"), "coordinate_channels"),
}

#: id -> whether the clustering that is configured makes it meaningless, and the words for it
_CLUSTERED_OTHERWISE: dict[str, tuple[Callable[[Mapping[str, Any]], bool], str]] = {
    "min_fraction": (lambda clustering: clustering.get("min_size") is not None, "clustering#min_size is given"),
    "merge_distance": (
        lambda clustering: clustering.get("method", "density_peaks") != "density_peaks",
        "clustering#method is another than density_peaks",
    ),
    "objectness_threshold": (
        lambda clustering: clustering.get("background", "auto") not in ("auto", "objectness"),
        "clustering#background is another than auto or objectness",
    ),
}

#: ids of the consistency term alone, whose weight the config computes
_CONSISTENCY = frozenset(
    f"loss#{name}" for name in ("max_anchors", "uncovered_fraction", "anchor_sampling", "consistency_reduction")
)


def check_effect(
    config: Mapping[str, Any], overrides: Iterable[str], where: str, roots: Iterable[str] = _ROOTS
) -> None:
    """Refuses ids that nothing which runs refers to, or that another id makes meaningless.

    Args:
        config: the merged config, overrides included.
        overrides: ids that the user has set; those of places are set by every command and left out.
        where: put before ids in messages, as in ``check_ids``.
        roots: ids that are run.

    Raises:
        SpocoError: at the first id without effect.
    """
    used: set[tuple[str, ...]] = set()
    for root in roots:
        _follow(config, (root,), used)
    for name in overrides:
        place = levels(name)
        if name not in PLACES and not any(place[: len(path)] == path[: len(place)] for path in used):
            raise SpocoError(f"{where}{name}: has no effect in this command: leave it out")
        need = _NEEDS.get(name)
        if need in config and config[need] in (False, 0, None) and config.get(name) is not None:
            raise SpocoError(f"{where}{name}: has no effect where {need} is {config[need]}: leave it out")
        if name == "agreement" and config[name] is True and "second_network" not in config:
            raise SpocoError(
                f"{where}{name}: compares two networks, which prediction and evaluation have: leave it out"
            )
        if "#".join(place) in _CONSISTENCY and not _is_consistent(config):
            raise SpocoError(
                f"{where}{name}: has no effect without the consistency term, which embeddings with coordinates do not "
                f"need: leave it out, or give {where}loss#consistency_weight 1 too"
            )
        if name in _CLUSTERED_OTHERWISE and config[name] is not None:
            is_meaningless, words = _CLUSTERED_OTHERWISE[name]
            if is_meaningless(config["clustering"]):
                raise SpocoError(f"{where}{name}: has no effect where {words}: leave one of them out")
        if config.get("minutes") and place[0] in ("val_interval", "lr_scheduler"):
            raise SpocoError(
                f"{where}{name}: has no effect with minutes, by which the clock decides: leave one of them out"
            )
        if name == "coordinate_radii" and config.get("coordinate_scale") is not None:
            raise SpocoError(f"{where}{name}: has no effect where coordinate_scale is given: leave one of them out")


def _is_consistent(config: Mapping[str, Any]) -> bool:
    """Whether student and teacher are surely compared: by a weight that is given, or without coordinates."""
    weight = config["loss"].get("consistency_weight")
    return config.get("coordinate_channels") == 0 if isinstance(weight, str) else weight != 0


def _follow(config: Mapping[str, Any], path: tuple[str, ...], used: set[tuple[str, ...]]) -> None:
    """Adds a place in the config, and all that it refers to."""
    if path in used:
        return
    used.add(path)
    content: Any = config
    for level in path:
        if isinstance(content, Mapping) and level in content:
            content = content[level]
        elif isinstance(content, list) and level.isdigit() and int(level) < len(content):
            content = content[int(level)]
        else:
            # the rest is looked up in what an expression gives; a reference to nothing is refused elsewhere
            break
    for place in references(() if content is config else content):
        _follow(config, place, used)

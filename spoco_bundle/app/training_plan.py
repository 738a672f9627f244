"""The plan of a training as both doors carry it out: resolved from the config, shown, and kept beside the weights."""

from __future__ import annotations

import logging
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import torch

from spoco_bundle.app.config import find_config, find_overlays, json_content, read_configs
from spoco_bundle.app.config_checks import running_parser
from spoco_bundle.app.final_tuning import tuned_ids
from spoco_bundle.app.model_config import (
    PLANNED,
    alike,
    check_data,
    config_beside,
    model_overlay,
    resolved,
    write_model_config,
)
from spoco_bundle.app.plan_check import check_plan, plan_lines
from spoco_bundle.blockwise.memory import available_memory
from spoco_bundle.core.atomic_files import write_json
from spoco_bundle.core.errors import SpocoError, unwrapped
from spoco_bundle.core.saved_state import save_state
from spoco_bundle.handlers.checkpoint import check_checkpoint, find_checkpoint, set_aside
from spoco_bundle.networks import load_weights
from spoco_bundle.networks.weights import read_weights

if TYPE_CHECKING:
    from monai.bundle import ConfigParser

#: files beside the weights: the settings that the profile decided, an overlay of ``train.json``, and the profile
PLAN, PROFILE = "plan.json", "profile.json"

logger = logging.getLogger(__name__)


def training_files(config: str, overrides: dict[str, Any], began: str | Path | None = None) -> list[Path]:
    """Configs of a training, base first.

    A training that goes on takes the plan that it began with; one that starts from given weights takes the network from
    the config beside them, and the sizes of objects from its images.

    Args:
        config: names or paths of overlays, with commas between.
        overrides: ids that the user set.
        began: folder of the model of the training that goes on, None for one that begins.
    """
    base, overlays = find_config("train"), find_overlays(config)
    if began is not None:
        plan = Path(began) / PLAN
        if not plan.is_file():  # version 0.1 left the config of the model alone
            return [base, *model_overlay(began), *overlays]
        check_data(json_content(plan), plan, "take it out; if you trust it, give it with --config too")
        return [base, *_of_the_weights(base, overlays, overrides)[:1], plan, *overlays]
    return [base, *_of_the_weights(base, overlays, overrides), *overlays]


def _of_the_weights(base: Path, overlays: list[Path], overrides: dict[str, Any]) -> list[Path]:
    """Config beside the weights that a training starts from, and what it takes from its images all the same."""
    parser = read_configs([base, *overlays], overrides)
    with unwrapped():
        pretrained = parser.get_parsed_content("pretrained")
    beside = config_beside(pretrained)
    return [] if beside is None else [beside, find_config("pretrained")]


def plan_folder(folder: str | Path, config: str = "", **overrides: Any) -> tuple[list[str], dict[str, Any]]:
    """What a training on a folder would do.

    Args:
        folder: see ``spoco_bundle.train``.
        config: names or paths of overlays, with commas between.
        overrides: any id of ``configs/train.json``.

    Returns:
        Lines for a person, and the ids that were decided, with their values.

    Raises:
        SpocoError: for bad input, or a folder from which nothing can be learnt.
    """
    ids = {"dataset_dir": str(folder), **overrides}
    parser = read_configs(training_files(config, ids), ids)
    with unwrapped():
        return _checked(parser)


def write_running_plan(folder: str | Path) -> None:
    """Shows the plan of the training that runs, and writes it and the profile where the weights will lie.

    The model config is written with the weights, and not before: others may lie there. To be called from the list that
    MONAI runs, see ``check_running_config``.

    Args:
        folder: of the weights.

    Raises:
        SpocoError: if the plan cannot work, an image to learn from or to validate on is unusable, there is no such
            score, or the weights to start from or the checkpoint to go on with do not fit; nothing is written then.
    """
    parser = running_parser()
    lines, ids = _checked(parser)
    checkpoints, resume = (parser.get_parsed_content(name) for name in ("checkpoint_dir", "resume"))
    resumed = find_checkpoint(checkpoints, resume)
    for name in ("pretrained", "pretrained_student"):
        weights = parser.get_parsed_content(name)
        if weights is not None:
            load_weights(parser.get_parsed_content("network"), weights)
    if idist.get_rank() == 0:
        for line in lines:
            logger.info("%s", line)
    loader, *_ = map(parser.get_parsed_content, ("train#dataloader", "validate#dataset", "validate#metric"))
    if resumed is not None:
        network, epochs = map(parser.get_parsed_content, ("network", "train#trainer#max_epochs"))
        length = "train#trainer#epoch_length"
        length = parser.get_parsed_content(length) if length in parser else len(loader)
        check_checkpoint(resumed, network, length, epochs)
    if idist.get_rank() != 0:
        return
    pretrained = parser.get_parsed_content("pretrained")
    if pretrained is not None and parser.get_parsed_content("replace_if_better") and not resume:
        _begin_with(Path(pretrained), parser)
    set_aside(checkpoints, resumed)  # before the plan that they belong to is replaced
    write_json(Path(folder) / PLAN, ids)
    write_json(Path(folder) / PROFILE, asdict(parser.get_parsed_content("profile")))
    parser.get_parsed_content("validate#best_weights").on_save = partial(write_model_config, parser, folder)


def _begin_with(pretrained: Path, parser: ConfigParser) -> None:
    """Puts the model that a training starts from where its own will lie: what scores worse does not replace it.

    The sizes that the old weights know stay beside them, unless others are given: at those of the new objects they
    would find less.

    Raises:
        SpocoError: if the weights cannot be read or do not fit the network, before anything is written.
    """
    names = "validate#best_weights", "validate#best_other_weights"
    scored, other = (parser.get_parsed_content(name).path for name in names)
    given = parser.get_parsed_content("pretrained_student")
    if parser.get_parsed_content("validate_with") == "student":
        sources = {scored: Path(given or pretrained), other: pretrained}
    else:
        second = pretrained.with_name(other.name)
        sources = {scored: pretrained, other: Path(given or (second if second.is_file() else pretrained))}
    network = parser.get_parsed_content("network")
    for source in sources.values():
        load_weights(network, source)
    for target, source in sources.items():
        if target.resolve() != source.resolve():
            save_state(read_weights(source), target)
    beside = config_beside(pretrained)
    decided = {} if beside is None else json_content(beside)
    sizes = json_content(find_config("pretrained"))
    known = {name: decided[name] for name in sizes.keys() & decided.keys() if alike(parser[name], sizes[name])}
    write_model_config(parser, scored.parent, known)


def _checked(parser: ConfigParser) -> tuple[list[str], dict[str, Any]]:
    ids = {key: resolved(parser, key) for key in PLANNED if key in parser}
    profile = parser.get_parsed_content("profile")
    # a graphics card has a memory of its own, and says itself that it is full
    on_processor = torch.device(parser.get_parsed_content("device")).type == "cpu"
    check_plan(profile, ids, available_memory(None) if on_processor else math.inf)
    drawn = parser.get_parsed_content("held_out")
    if drawn is not None and parser.get_parsed_content("validation_split") != "train":
        raise SpocoError(
            "holdout_fraction: nothing is held out where val/ validates: leave it out, or give validation_split train "
            "too"
        )
    held_out = [] if drawn is None else [drawn.line()]
    if not parser.get_parsed_content("tune_minutes"):
        return [*profile.lines(), *plan_lines(profile, ids), *held_out], ids
    # what is chosen at the end is no plan that a training which goes on has to keep
    chosen = tuned_ids(parser.get())
    begun = ", ".join(f"{name} {ids[name]}" for name in chosen)
    at_the_end = [f"{begun}, unless the validation shows at the end that others are better"]
    fixed = {key: value for key, value in ids.items() if key not in chosen}
    return [*profile.lines(), *plan_lines(profile, ids), *held_out, *(at_the_end if chosen else [])], fixed

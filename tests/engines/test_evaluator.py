from __future__ import annotations

import torch
from monai.data import DataLoader, MetaTensor

from spoco_bundle.core.errors import SpocoError, user_error
from spoco_bundle.dataset import BatchDataset
from spoco_bundle.engines import BatchEvaluator


def evaluation(names, reading, network=lambda x: x):
    """Runs over images of one voxel; returns the names that reached the end, and what the run raised."""
    seen = []

    def load(item):
        reading(item["image"])
        return {"image": MetaTensor(torch.ones(1, 1, 1), meta={"filename_or_obj": item["image"]})}

    loader = DataLoader(BatchDataset([{"image": name} for name in names], load), batch_size=1)
    module = torch.nn.Identity()
    module.forward = network
    evaluator = BatchEvaluator(device=torch.device("cpu"), val_data_loader=loader, network=module)
    evaluator.add_event_handler("ITERATION_COMPLETED", lambda e: seen.append(e.state.batch[0]["image"].meta))
    try:
        evaluator.run()
    except Exception as error:
        return [meta["filename_or_obj"] for meta in seen], error
    return [meta["filename_or_obj"] for meta in seen], None


def refuse(*bad):
    def reading(name):
        if name in bad:
            raise RuntimeError("applying transform") from SpocoError(f"{name}: is bad: mend it")

    return reading


def test_bad_images_are_passed_over_and_named(capsys):
    seen, error = evaluation(["a", "b", "c", "d"], refuse("b", "d"))
    assert seen == ["a", "c"]
    assert "2 of 4 images" in str(user_error(error)) and "b, d" in str(user_error(error))
    assert "  b: is bad: mend it\n  d: is bad: mend it\n" in capsys.readouterr().err


def test_one_bad_image_is_the_error_itself():
    assert str(user_error(evaluation(["a"], refuse("a"))[1])) == "a: is bad: mend it"
    assert str(user_error(evaluation(["a", "b"], refuse("a"))[1])).startswith("a: is bad: mend it; the other 1 of 2")


def test_spent_memory_is_told_of_the_image():
    def network(x):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    seen, error = evaluation(["scan.tif"], refuse(), network)
    assert seen == [] and str(user_error(error)).startswith("scan.tif: memory is spent")


def test_defects_are_not_passed_over():
    def network(x):
        raise KeyError("a defect")

    seen, error = evaluation(["a", "b"], refuse(), network)
    assert seen == [] and isinstance(error, KeyError) and user_error(error) is None


def test_one_reason_for_all_images_is_one_line():
    evaluator = BatchEvaluator(device=torch.device("cpu"), val_data_loader=[0], network=torch.nn.Identity())
    evaluator.state.iteration = 2
    evaluator.problems = [(name, f"{name}: folder: holds slices: convert the series") for name in ("a.dcm", "b.dcm")]
    assert str(evaluator._summary()) == "all 2 images: folder: holds slices: convert the series"


def test_the_summary_counts_what_is_done():
    evaluator = BatchEvaluator(device=torch.device("cpu"), val_data_loader=[0], network=torch.nn.Identity())
    evaluator.state.iteration = 4
    evaluator.problems = [(name, f"{name}: {reason}") for name, reason in zip("abcd", ("one", "two", "three", "four"))]
    assert "4 of 4 images could not be processed, none is done: " in str(evaluator._summary())
    evaluator.problems = evaluator.problems[:3]
    assert "3 of 4 images could not be processed, the other 1 is done: " in str(evaluator._summary())


def test_nothing_to_do_is_done_without_a_word():
    assert evaluation([], refuse()) == ([], None)

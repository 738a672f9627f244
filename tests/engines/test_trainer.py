import copy

import pytest
import torch
from ignite.engine import Events
from torch.utils._python_dispatch import TorchDispatchMode

from spoco_bundle.core.embedding_space import coordinate_lines
from spoco_bundle.core.errors import SpocoError, user_error
from support import training

NO_VALIDATION = {"val_interval": 1000}


def weights(workflow):
    return copy.deepcopy(workflow.parser.get_parsed_content("network").state_dict())


def run(workflow, stop_at=None):
    trainer = workflow.trainer
    losses = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output[0]["loss_terms"]["loss"])
    )
    if stop_at is not None:

        def interrupt(engine):
            raise KeyboardInterrupt

        # behind the checkpoint handler of the same event, as a kill after the write would be
        trainer.add_event_handler(Events.ITERATION_COMPLETED(once=stop_at), interrupt)
        with pytest.raises(KeyboardInterrupt):
            trainer.run()
    else:
        trainer.run()
    return losses


def same(first, second):
    return all(torch.equal(first[key], second[key]) for key in first)


def test_same_seed_same_weights_and_another_seed_others(bundle_root, sample, tmp_path):
    states = []
    for number, seed in enumerate((3, 3, 4)):
        settings = {"seed": seed, "max_epochs": 1, "iterations_per_epoch": 2, **NO_VALIDATION}
        workflow = training(bundle_root, sample, tmp_path / str(number), **settings)
        run(workflow)
        states.append(weights(workflow))
    assert same(states[0], states[1])
    assert not same(states[0], states[2])


COMPARED = {"loss#consistency_weight": 1.0}  # the teacher's view and network take part
RESUMABLE = {"max_epochs": 2, "dropout": 0.1, **COMPARED, **NO_VALIDATION}


@pytest.fixture(scope="module")
def uninterrupted(bundle_root, sample, tmp_path_factory):
    """A training that ran through, and its losses."""
    workflow = training(bundle_root, sample, tmp_path_factory.mktemp("whole"), **RESUMABLE)
    return workflow, run(workflow)


@pytest.mark.parametrize("stop_at", [2, 4, 7])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    stop_at, uninterrupted, bundle_root, sample, tmp_path
):
    whole, losses = uninterrupted
    broken = training(bundle_root, sample, tmp_path / "broken", **RESUMABLE)
    first = run(broken, stop_at)
    resumed = training(bundle_root, sample, tmp_path / "broken", resume="last", **RESUMABLE)
    second = run(resumed)
    # an interruption at the last iteration of an epoch comes before that epoch's checkpoint: one iteration is repeated
    done = stop_at - 1 if stop_at == 4 else stop_at
    assert first == losses[:stop_at]
    assert second == losses[done:]
    assert same(weights(whole), weights(resumed))
    for name in ("teacher", "optimizer"):
        states = [w.parser.get_parsed_content(name).state_dict() for w in (whole, resumed)]
        torch.testing.assert_close(*states, rtol=0, atol=0)


def test_coordinates_are_added_to_both_views_in_physical_units(bundle_root, sample, tmp_path):
    settings = {"max_epochs": 1, "coordinate_scale": 2.5, **COMPARED, **NO_VALIDATION}
    workflow = training(bundle_root, sample, tmp_path, **settings)
    trainer = workflow.trainer
    seen = []
    loss = trainer.loss_function
    raw = {}
    trainer.network.register_forward_hook(lambda module, args, output: raw.update(student=output.detach()))
    trainer.teacher.module.register_forward_hook(lambda module, args, output: raw.update(teacher=output.detach()))

    def record(student, labels, teacher, spacing, **more):
        seen.append((student.detach() - raw["student"], teacher - raw["teacher"], spacing))
        return loss(student, labels, teacher, spacing=spacing, **more)

    record.weights = loss.weights
    trainer.loss_function = record
    trainer.run()
    for student, teacher, spacing in seen:
        for item, steps in enumerate(spacing):
            assert sorted(steps.tolist()) == pytest.approx([0.8, 0.8, 2.0])
            lines = coordinate_lines(student.shape[2:], steps.tolist(), 2.5)
            expected = torch.stack(torch.meshgrid(*lines, indexing="ij"))
            torch.testing.assert_close(student[item, :3], expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(teacher[item, :3], expected, rtol=1e-4, atol=1e-4)
            assert not student[item, 3:].any() and not teacher[item, 3:].any()


def test_the_teacher_looks_at_crops_only_where_its_masks_are_compared(bundle_root, sample, tmp_path):
    workflow = training(bundle_root, sample, tmp_path, max_epochs=1, iterations_per_epoch=1, **NO_VALIDATION)
    looked, terms = [], []
    workflow.trainer.teacher.module.register_forward_hook(lambda *call: looked.append(call))

    def record(engine):
        terms.append(engine.state.output[0]["loss_terms"])
        assert not looked  # the validation afterwards is the teacher's

    workflow.trainer.add_event_handler(Events.ITERATION_COMPLETED, record)
    workflow.trainer.run()
    assert terms[0]["consistency"] == 0 < terms[0]["instance"]


class CountReads(TorchDispatchMode):
    """Counts values that are read back from a tensor, each of which makes the host wait for a GPU."""

    reads = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_trainer_reads_back_no_single_value_in_an_iteration(bundle_root, sample, tmp_path):
    workflow = training(bundle_root, sample, tmp_path, max_epochs=1, iterations_per_epoch=2, **NO_VALIDATION)
    trainer, counter = workflow.trainer, CountReads()

    def loss(student, labels, teacher, **more):
        return {name: student.square().mean() for name in ("pull", "push", "instance", "loss")}

    loss.weights = trainer.loss_function.weights
    trainer.loss_function = loss
    # both read step counts of their own, which lie on the CPU
    trainer.optimizer.step = trainer.teacher.update_parameters = lambda *_: None
    iteration = trainer._iteration

    def counted(engine, batch):
        with counter:
            return iteration(engine, batch)

    trainer._process_function = counted
    trainer.run()
    assert counter.reads == 0
    terms = trainer.state.output[0]["loss_terms"]
    assert terms["pull"] == terms["loss"] == float(trainer.state.output[0]["loss"]) > 0


def test_scale_and_spacing_travel_with_the_weights(bundle_root, sample, tmp_path):
    workflow = training(bundle_root, sample, tmp_path, max_epochs=1, val_interval=1)
    run(workflow)
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert state["training_spacing"].tolist() == pytest.approx([2.0, 0.8, 0.8])
    assert 1 < float(state["coordinate_scale"]) < 6  # nuclei of 4 to 5 um radius


@pytest.mark.parametrize(("scored", "other"), [("teacher", "student"), ("student", "teacher")])
def test_the_network_that_was_scored_is_the_one_that_is_shipped(bundle_root, sample, tmp_path, scored, other):
    workflow = training(bundle_root, sample, tmp_path, max_epochs=1, validate_with=scored)
    run(workflow)
    networks = {"teacher": workflow.trainer.teacher.module, "student": workflow.trainer.network}
    files = {"model.pt": scored, f"model_{other}.pt": other}
    assert {path.name for path in tmp_path.glob("model*.pt")} == set(files)
    for name, network in files.items():
        assert same(torch.load(tmp_path / name, weights_only=True), networks[network].state_dict())


@pytest.mark.parametrize("objectness", [True, False])
def test_nonspatial_embeddings_get_no_coordinates(bundle_root, sample, tmp_path, objectness):
    overlay = bundle_root / "configs" / "nonspatial.json"
    settings = {"max_epochs": 1, "objectness": objectness, **NO_VALIDATION}
    workflow = training(bundle_root, sample, tmp_path, overlay, **settings)
    run(workflow)
    output = workflow.trainer.state.output[0]
    assert output["pred"].shape[1] == 6 + objectness
    assert ("objectness" in output["loss_terms"]) is objectness
    assert workflow.trainer.decoder.coordinate_channels == 0


def test_a_loss_that_is_not_finite_names_the_images(bundle_root, sample, tmp_path):
    workflow = training(bundle_root, sample, tmp_path, max_epochs=1, **NO_VALIDATION)
    with torch.no_grad():
        workflow.trainer.network.head.weight.fill_(float("nan"))
    with pytest.raises(Exception) as error:
        workflow.trainer.run()
    assert "crowd_0" in str(user_error(error.value))


def test_bfloat16_trains(bundle_root, sample, tmp_path):
    workflow = training(bundle_root, sample, tmp_path, max_epochs=1, precision="bfloat16", **NO_VALIDATION)
    before = weights(workflow)
    losses = run(workflow)
    assert all(torch.isfinite(torch.tensor(losses)))
    assert not same(before, weights(workflow))


def test_unknown_precision_is_refused(bundle_root, sample, tmp_path):
    with pytest.raises(Exception) as error:
        _ = training(bundle_root, sample, tmp_path, precision="float8").trainer
    assert isinstance(user_error(error.value), SpocoError)


def test_dense_supervision_trains_without_consistency(bundle_root, sample, tmp_path):
    overlay = bundle_root / "configs" / "nonspatial.json"
    workflow = training(bundle_root, sample, tmp_path, overlay, max_epochs=1, supervision="dense", **NO_VALIDATION)
    before = weights(workflow)
    run(workflow)
    terms = workflow.trainer.state.output[0]["loss_terms"]
    assert terms["consistency"] == 0 and terms["unlabeled_push"] == 0 and terms["pull"] > 0
    assert not same(before, weights(workflow))

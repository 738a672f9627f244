from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.transforms import Transform

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.dataset import SparseCropDataset
from spoco_bundle.handlers import BestWeights
from spoco_bundle.handlers.preparation import CoordinateScale, LoadWeights, ScoreBefore
from spoco_bundle.networks import EmbeddingUNet, MomentumTeacher
from spoco_bundle.networks.lengths import learn_lengths, learnt_lengths
from support import small_network as network


def sample(spacing=(2.0, 1.0, 1.0), unit="micrometer") -> dict:
    affine = torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64))
    return {"image": MetaTensor(torch.zeros(1, 4, 8, 8), affine=affine, meta={"length_unit": unit})}


def prepared(samples, student=None, diameter=12.0, **arguments) -> tuple[EmbeddingUNet, EmbeddingUNet]:
    student = student or network()
    teacher = MomentumTeacher(student)
    engine = Engine(lambda engine, batch: None)
    dataset = samples if isinstance(samples, SparseCropDataset) else SparseCropDataset(samples, [])
    CoordinateScale(student, teacher, dataset, 3, diameter, **arguments).attach(engine)
    engine.run([0], max_epochs=1)
    return student, teacher.module


def test_scale_follows_from_the_radius_of_a_typical_object():
    for one in prepared([sample(), sample((3.0, 1.5, 1.5)), sample()], diameter=18.0, radii=0.5):
        assert float(one.coordinate_scale) == 4.5
        assert one.training_spacing.tolist() == [2, 1, 1]


def test_only_the_first_volumes_are_read():
    class Load(Transform):
        def __call__(self, number):
            if number > 0:
                raise RuntimeError("read too far")
            return sample()

    student, _ = prepared(SparseCropDataset([0, 1], [Load()], cache_num=0), max_volumes=1)
    assert float(student.coordinate_scale) == pytest.approx(6.0, rel=0.05)


def test_given_scale_wins_over_that_of_the_weights_and_this_over_an_estimate():
    tuned = network()
    tuned.coordinate_scale.fill_(7.0)
    assert [float(one.coordinate_scale) for one in prepared([sample()], tuned)] == [7, 7]
    assert [float(one.coordinate_scale) for one in prepared([sample()], tuned, scale=3.0)] == [3, 3]


@pytest.mark.parametrize(
    ("trained_at", "expected"),
    [((2.0, 1.0, 1.0), 7.0), ((1.4, 0.7, 1.4), 7.0), ((1.3, 1.0, 1.0), 3.0), ((0.02, 0.01, 0.01), 3.0)],
)
def test_scale_of_the_weights_is_kept_only_for_voxels_like_those_it_was_made_for(trained_at, expected):
    tuned = network()
    tuned.coordinate_scale.fill_(7.0)
    learn_lengths(tuned, trained_at, "micrometer")
    for one in prepared([sample()], tuned, radii=0.5):
        assert float(one.coordinate_scale) == pytest.approx(expected, rel=0.05)
        assert one.training_spacing.tolist() == [2, 1, 1]


@pytest.mark.parametrize("unit", ["micrometer", "pixel", "unknown"])
def test_the_weights_say_what_they_learnt_and_do_not_take_one_for_the_other(unit):
    tuned = network()
    tuned.coordinate_scale.fill_(7.0)
    learn_lengths(tuned, (2.0, 1.0, 1.0), "micrometer")
    for one in prepared([sample(unit=unit)], tuned):
        assert learnt_lengths(one) == ((2.0, 1.0, 1.0), unit)
        assert float(one.coordinate_scale) == pytest.approx(7.0 if unit == "micrometer" else 6.0, rel=0.05)


def test_loaded_weights_reach_the_teacher(tmp_path):
    saved, student = network(), network()
    teacher = MomentumTeacher(student)
    teacher.n_averaged.fill_(5)
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    engine = Engine(lambda engine, batch: None)
    LoadWeights(str(tmp_path / "weights.pt"), student, teacher).attach(engine)
    engine.run([0], max_epochs=1)
    for one in (student, teacher.module):
        assert all(torch.equal(value, saved.state_dict()[key]) for key, value in one.state_dict().items())
    assert int(teacher.n_averaged) == 0


def test_student_and_teacher_start_from_their_own_files(tmp_path):
    ours, theirs, student = network(), network(), network()
    teacher = MomentumTeacher(student)
    torch.save(ours.state_dict(), tmp_path / "model.pt")
    torch.save({key: value + 1 for key, value in theirs.state_dict().items()}, tmp_path / "student.pt")
    engine = Engine(lambda engine, batch: None)
    LoadWeights(str(tmp_path / "model.pt"), student, teacher, str(tmp_path / "student.pt")).attach(engine)
    engine.run([0], max_epochs=1)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in teacher.module.state_dict().items())
    assert all(torch.equal(value, theirs.state_dict()[key] + 1) for key, value in student.state_dict().items())


def scored_training(folder, before, after, keep=False, epochs=1, state=None, **options):
    """A training whose weights are 0 before and 1 from its first epoch on, with the scores given."""
    student = network()
    _, bias = next(student.named_parameters())
    torch.nn.init.constant_(bias, 0)
    weights = BestWeights(student, str(folder / "model.pt"), metric="score")
    if keep:
        weights.save()

    class Validation(Engine):
        def run(self, global_epoch):
            self.state.metrics = {"score": before if not bias.any() else after}
            self.state.epoch, self.state.key_metric_name = global_epoch, "score"
            self.fire_event(Events.EPOCH_COMPLETED)

    validation = Validation(lambda engine, batch: None)
    weights.attach(validation)
    trainer = Engine(lambda engine, batch: torch.nn.init.constant_(bias, 1))
    ScoreBefore(validation, [weights], **options).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: validation.run(engine.state.epoch))
    if state is not None:

        @trainer.on(Events.STARTED)
        def go_on(engine):
            weights.load_state_dict(state)
            engine.state.iteration = engine.state.epoch = 1

    trainer.run([0], max_epochs=epochs)
    return weights


@pytest.mark.parametrize(("before", "after", "kept"), [(0.5, 0.4, "before"), (0.5, 0.6, "after"), (0.5, 0.5, "before")])
def test_weights_are_replaced_only_by_better_ones(before, after, kept, tmp_path):
    weights = scored_training(tmp_path, before, after, keep=True)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    name, _ = next(weights.network.named_parameters())
    assert bool(saved[name].any()) == (kept == "after") == weights.won


@pytest.mark.parametrize("options", [{"wanted": False}, {"from_weights": False}])
def test_weights_that_are_not_to_be_kept_are_not_scored(options, tmp_path, caplog):
    caplog.set_level("INFO")
    weights = scored_training(tmp_path, 0.5, 0.4, keep=True, **options)
    assert weights.won and weights.best_score == 0.4 and "old weights" not in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (0.5, 0.4, "kept the old weights: none was better (they score 0.5000, the best new ones 0.4000)"),
        (1.0, 1.0, "cannot tell"),
        (0.5, 0.6, "replaced the old weights: those in use from now on score 0.6000, the old ones 0.5000"),
    ],
)
def test_weights_in_use_are_not_touched_where_none_is_better_and_one_line_says_both_scores(
    before, after, words, tmp_path, caplog, monkeypatch
):
    caplog.set_level("INFO")
    saves = []
    monkeypatch.setattr(BestWeights, "save", lambda self, save=BestWeights.save: saves.append(save(self)))
    scored_training(tmp_path, before, after, keep=True)
    assert (len(saves) == 1) == (after <= before), "they lie there already"
    assert words in caplog.text and len([r for r in caplog.records if "old weights" in r.getMessage()]) == 1
    assert ("cannot tell" in caplog.text) == (before == 1)


def test_a_training_that_goes_on_keeps_to_the_score_before_it_and_does_not_score_again(tmp_path, caplog):
    caplog.set_level("INFO")
    state = {"best_score": 0.5, "best_epoch": 0, "before": 0.5, "best_trained": 0.2}
    weights = scored_training(tmp_path, 0.9, 0.4, keep=True, epochs=2, state=state)
    assert not weights.won and "(they score 0.5000, the best new ones 0.4000)" in caplog.text
    weights = scored_training(tmp_path, 0.9, 0.4, keep=True, epochs=2, state=state, wanted=False)
    assert weights.won and weights.best_score == 0.4


def test_a_validation_without_a_score_is_refused_before_the_training(tmp_path):
    with pytest.raises(SpocoError, match="replace_if_better.*annotate"):
        scored_training(tmp_path, float("nan"), 0.5)

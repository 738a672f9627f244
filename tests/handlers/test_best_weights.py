from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from spoco_bundle.core.errors import SpocoError
from spoco_bundle.handlers import BestWeights


class TestBestWeights:
    def evaluate(self, best: BestWeights, scores) -> None:
        engine = Engine(lambda engine, batch: None)
        values = iter(scores)

        @engine.on(Events.EPOCH_COMPLETED)
        def score(engine):
            engine.state.metrics["ap"] = next(values)
            engine.state.key_metric_name = "ap"
            with torch.no_grad():
                best.network.weight.fill_(engine.state.epoch)

        best.attach(engine)
        engine.run([0], max_epochs=len(scores))

    def test_saves_on_improvement_only(self, tmp_path):
        best = BestWeights(nn.Linear(1, 1), str(tmp_path / "models" / "model.pt"))
        self.evaluate(best, [float("nan"), 0.2, 0.5, 0.5, 0.4])
        assert (best.best_score, best.best_epoch) == (0.5, 3)
        state = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
        assert set(state) == {"weight", "bias"} and float(state["weight"]) == 3

    def test_what_belongs_beside_the_weights_is_written_whenever_they_are(self, tmp_path):
        best, seen = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt")), []
        best.on_save = lambda: seen.append(torch.load(best.path, weights_only=True)["weight"].item())
        self.evaluate(best, [0.2, 0.1, 0.5])
        assert seen == [1, 3]

    def test_a_score_of_zero_is_better_than_none(self, tmp_path):
        best = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"), metric="ap")
        self.evaluate(best, [0.0])
        assert (tmp_path / "model.pt").is_file()

    def test_state_survives_a_resume(self, tmp_path):
        best = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"))
        best.load_state_dict({"best_score": 0.9, "best_epoch": 7})
        self.evaluate(best, [0.8])
        assert best.state_dict() == {"best_score": 0.9, "best_epoch": 7, "before": None, "best_trained": 0.9}
        assert not (tmp_path / "model.pt").exists()

    def test_the_score_before_the_training_survives_a_resume(self, tmp_path):
        best, resumed = (BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt")) for _ in range(2))
        self.evaluate(best, [0.6])
        best.start_from(0.6)
        self.evaluate(best, [0.5, float("nan")])
        resumed.load_state_dict(best.state_dict())
        self.evaluate(resumed, [0.55])
        assert not resumed.won and (resumed.before, resumed.best_trained, resumed.best_score) == (0.6, 0.55, 0.6)
        self.evaluate(resumed, [0.7])
        assert resumed.won and (resumed.before, resumed.best_trained, resumed.best_score) == (0.6, 0.7, 0.7)

    @pytest.mark.parametrize(("scores", "kept"), [([0.5], 0.3), ([0.7], 0.7)])
    def test_the_score_before_is_forgotten_without_losing_better_weights(self, scores, kept, tmp_path):
        best = BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"))
        self.evaluate(best, [0.6])
        best.start_from(0.6)
        self.evaluate(best, scores)
        best.forget_before()
        self.evaluate(best, [0.3])
        assert best.best_score == kept and best.before is None

    def test_unknown_metric(self, tmp_path):
        with pytest.raises(SpocoError, match="'f1'; choose among \\['ap'\\]"):
            self.evaluate(BestWeights(nn.Linear(1, 1), str(tmp_path / "model.pt"), metric="f1"), [0.1])

    def test_inner_module_of_a_wrapper(self, tmp_path):
        best = BestWeights(nn.DataParallel(nn.Linear(1, 1)), str(tmp_path / "model.pt"))
        best.save()
        assert set(torch.load(tmp_path / "model.pt", weights_only=True)) == {"weight", "bias"}

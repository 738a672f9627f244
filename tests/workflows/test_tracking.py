"""Experiment tracking: what a training and an evaluation logged is read back from MLflow and TensorBoard."""

from __future__ import annotations

import importlib.util
import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from door import run_warm
from support import TINY

EPOCHS = 2
ITERATIONS = 6 * EPOCHS  # TensorBoard gets every tenth


def tracked_run(bundle_root, folder, names, **values):
    configs = str([str(bundle_root / "configs" / f"{name}.json") for name in names])
    values |= {**TINY, "max_epochs": EPOCHS, "iterations_per_epoch": ITERATIONS // EPOCHS}
    values |= {"output_dir": f"$'{folder / 'out'}'", "run_name": names[-1]}
    arguments = ["-m", "monai.bundle", "run", "--config_file", configs, "--tracking", "mlflow"]
    arguments += [part for key, value in values.items() for part in (f"--{key}", str(value))]
    result = run_warm(arguments, cwd=bundle_root, MLFLOW_DISABLE_TELEMETRY="true")
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mlflow", "sqlalchemy", "alembic")),
    reason="needs the extra 'tracking'",
)
def test_mlflow_and_tensorboard_hold_what_was_logged(sample, bundle_root, tmp_path):
    places = {"dataset_dir": sample, "ckpt_dir": tmp_path / "model"}
    tracked_run(bundle_root, tmp_path, ["train"], **places)
    tracked_run(bundle_root, tmp_path, ["train", "evaluate"], **places)

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'out' / 'mlruns.db'}")
    experiment = client.get_experiment_by_name("monai_experiment")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"train", "evaluate"}
    assert all(run.info.status == "FINISHED" for run in runs.values())

    # training: the loss and the learning rate of every iteration, the score of every validation
    train = runs["train"].info.run_id
    losses = client.get_metric_history(train, "train_loss")
    assert [metric.step for metric in losses] == list(range(1, ITERATIONS + 1))
    assert len(client.get_metric_history(train, "lr_group_0")) == ITERATIONS
    assert len(client.get_metric_history(train, "val_instances")) == EPOCHS
    assert runs["train"].data.params["max_epochs"] == str(EPOCHS)

    # evaluation: the score that scores.json has too
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert runs["evaluate"].data.metrics["val_instances"] == pytest.approx(scores["partly_labelled_score"])

    # the config that ran is kept with the training
    (artifact,) = client.list_artifacts(train)
    (kept,) = (tmp_path / "out" / "mlruns").rglob(f"{train}/**/{artifact.path}")
    assert json.loads(kept.read_text())["max_epochs"] == EPOCHS

    board = EventAccumulator(str(tmp_path / "out"), size_guidance={"scalars": 0})
    board.Reload()
    logged = {event.step: event.value for event in board.Scalars("train/loss")}
    assert logged and all(losses[step - 1].value == pytest.approx(value, rel=1e-5) for step, value in logged.items())

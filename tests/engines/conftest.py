"""Training volumes for the trainer."""

import pytest

from spoco_bundle.dataset.synthetic import make_synthetic_sample


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """Two training and two validation volumes."""
    folder = tmp_path_factory.mktemp("sample")
    make_synthetic_sample(folder, seed=0, train_volumes=2, train_shape=(10, 40, 40), val_shape=(10, 40, 48))
    return folder

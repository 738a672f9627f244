"""The files of this folder run in the model zoo's layout, which ``scripts/package_zoo.py`` makes."""

collect_ignore_glob = ["test_*.py"]

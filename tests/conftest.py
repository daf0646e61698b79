"""One thread for each process, set before anything imports torch; the longest tests first."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts the longest tests first, so that no worker is alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)

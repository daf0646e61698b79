"""One thread for each process, set before anything imports torch; the longest tests first."""

import gc
import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

gc.disable()  # nearly all that is imported stays


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts the longest tests first, so that no worker is alone with one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection_finish() -> None:
    """Collects garbage from here on, but never searches what was imported again."""
    gc.freeze()
    gc.enable()

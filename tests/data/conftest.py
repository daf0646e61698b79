from pathlib import Path

import pytest


@pytest.fixture
def files() -> Path:
    """Small real files, one folder a format."""
    return Path(__file__).parent / "files"

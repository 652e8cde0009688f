"""Where the cells play: a folder of each test's own, and a database for those that need one."""

from pathlib import Path

import pytest

from tests.planted.cells import ON_POSTGRES
from tests.planted.scene import Scene


@pytest.fixture
def scene(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Scene:
    dsn: str = request.getfixturevalue("postgres_dsn") if name in ON_POSTGRES else ""
    return Scene(tmp_path / "journal", dsn)

"""What the tests of the commands share."""

import socket
from collections.abc import Iterator

import pytest

from tests.cli.fake_gateway import FakeGateway


@pytest.fixture
def free_address() -> str:
    """An address at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A running fake, named to the commands by LOYALTY_SERVER."""
    with FakeGateway() as fake:
        monkeypatch.setenv("LOYALTY_SERVER", fake.address)
        yield fake

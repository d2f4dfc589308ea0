"""The trust battery: tests that count what they try, a part of it (``make test``) or all (``make trust``)."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from trust_battery import Battery, Tries


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--trust", metavar="FOLDER", type=Path, help="try everything in full and write trust.csv and trust.json there"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Background jobs of a shell without job control ignore Ctrl-C, and so would the commands that tests stop.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "trust(area, what): a part of the trust battery, and what it tries, in words")
    if config.getoption("--trust") is not None and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Battery(config.getoption("--trust"), Path(__file__).resolve().parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Marks of a worker's tests do not reach the process that writes the table; properties do.
    for item in items:
        mark = item.get_closest_marker("trust")
        if mark is not None:
            item.user_properties.append(("trust", list(mark.args)))


@pytest.fixture
def tries(request: pytest.FixtureRequest) -> Iterator[Tries]:
    """Counts what a test tries; a test without it counts once."""
    found = Tries(full=request.config.getoption("--trust") is not None)
    yield found
    request.node.user_properties.append(("tries", found.n))

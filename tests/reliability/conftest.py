"""What the tests of kills, disks, two processes and manners share: finished work, and a server."""

import pytest
from kills import workshop


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """A tiny model with its data and a finished run, and processes that start in no time."""
    with workshop(tmp_path_factory.mktemp("shop")) as shop:
        yield shop

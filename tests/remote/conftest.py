"""One real sshd for this folder's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.remote.sshd import SSHD, Sshd, running_sshd


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A real sshd on loopback."""
    if not SSHD.exists():
        pytest.skip("needs OpenSSH's server: apt-get install openssh-server")
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running

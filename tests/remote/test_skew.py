"""Version skew is told, once, on stderr; equal versions are not worth a word."""

from __future__ import annotations

import json

import pytest

import llorch as package
from llorch.remote import skew
from tests.remote.cli import llorch
from tests.remote.sshd import Sshd

SAME = {"version": package.__version__, "protocol": package.PROTOCOL, "build_id": "source"}


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (SAME, None),
        ({**SAME, "build_id": "0123456789ab"}, None),
        ({**SAME, "version": "9.9.9"}, "a runs llorch 9.9.9"),
        ({**SAME, "version": "9.9.9", "protocol": 9}, "a speaks protocol 9"),
        ({"error": "x"}, None),
        ([], None),
    ],
)
def test_what_differs_is_told(facts: object, told: str | None) -> None:
    """Protocol before version before build; from sources a build is not compared; odd answers are no skew."""
    watch = skew.Watch()
    for byte in json.dumps(facts).encode():
        watch.feed(bytes([byte]))
    warning = watch.warning("a")
    assert (
        warning is None if told is None else told in (warning or "") and "llorch pool upgrade --host a" in str(warning)
    )


@pytest.mark.parametrize("words", [("status",), ("status", "--json")])
def test_a_pools_status_says_so(sshd: Sshd, words: tuple[str, ...]) -> None:
    """The output stays what the pool printed; the difference is one line on stderr."""
    text = "Host           a (linux x86_64)\nVersion        llorch 9.9.9, protocol 1, build 0123456789ab\n"
    answer = json.dumps({"version": "9.9.9", "protocol": 1}) + "\n" if "--json" in words else text
    other = sshd.remote_bin / "llorch-pool"
    other.write_text(f"#!/bin/sh\ncat <<'END'\n{answer}END\n")
    other.chmod(0o755)
    try:
        done = llorch("pool", *words, "--host", "pool-a", env=sshd.env)
    finally:
        other.unlink()
    assert (done.code, done.out) == (0, answer)
    assert done.err.count("\n") == 1 and "pool-a runs llorch 9.9.9, this is" in done.err

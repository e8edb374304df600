"""Log lines: fields and tracebacks in both formats."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from llorch.base import log
from llorch.base.log import LogFormat


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger, left as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.mark.parametrize("form", LogFormat)
def test_tracebacks_are_logged(form: LogFormat, root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever logs an exception finds where it came from, in the text format as in JSON."""
    log.set_up("info", form)
    logger = log.get("llorch.test")
    try:
        _ = [][7]
    except IndexError:
        logger.error("a step failed", exc_info=True)
    said = capsys.readouterr().err
    if form is LogFormat.JSON:
        line = json.loads(said)
        assert line["message"] == "a step failed"
        said = line["traceback"]
    else:
        assert said.splitlines()[0].endswith("error llorch.test a step failed")
    assert "Traceback (most recent call last)" in said and "IndexError: list index out of range" in said


@pytest.mark.parametrize("form", LogFormat)
def test_fields_ride_along(form: LogFormat, root: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Named fields and the correlation id are on the line; a line without an exception is one line."""
    log.set_up("info", form)
    token = log.correlation.set("c-1")
    try:
        log.event(log.get("llorch.test"), "ready", port=8001)
    finally:
        log.correlation.reset(token)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    if form is LogFormat.JSON:
        assert json.loads(said) | {"port": 8001, "correlation_id": "c-1"} == json.loads(said)
    else:
        assert said.endswith(" ready port=8001 correlation_id=c-1\n")

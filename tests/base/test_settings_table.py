"""THE table of settings: command lines, documents and the brain's own defaults agree with it."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

from llorch.base import settings_table
from llorch.base.settings import Kind, Origin, Setting
from llorch.core.demand_settings import DemandSettings, ModelLimits
from llorch.core.settings import UNBOUNDED, BrainSettings
from llorch.core.tenant import TenantLimits
from llorch.orchestratord import main, settings
from llorch.workerd import launch
from tests.daemons import ROOT


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    return {word for action in parser._actions for word in action.option_strings}


def test_every_setting_has_its_flag_and_is_in_the_help() -> None:
    """Flags of both daemons are made of the table, with its words."""
    for rows, parser in (
        (settings_table.ORCHESTRATORD, main.parser("orchestratord")),
        (settings_table.WORKER, launch.parser("worker")),
    ):
        text = " ".join(parser.format_help().split())
        for row in rows:
            assert not row.flag_word or row.flag_word in flags_of(parser)
            assert not row.flag_word or row.help.split(";")[0].split("(")[0].strip() in text, row.key


def test_the_defaults_are_those_of_the_brain() -> None:
    """What the table says and what the brain does without it are the same."""
    values = {row.key: row.default for row in settings_table.ORCHESTRATORD}
    made = settings.made_of({**values, "autospawn": True}, Path(), Path())
    assert made.brain == BrainSettings() and made.demand == DemandSettings() and made.limits == ModelLimits()
    assert TenantLimits(**{row.key: row.default for row in settings_table.TENANT}) == TenantLimits()
    assert settings_table.UNBOUNDED == UNBOUNDED
    model = {row.key: row.default for row in settings_table.MODEL}
    assert (model["replicas_min"], model["replicas_max"], model["pinned"]) == (0, 1, False)


def test_defaults_keep_their_bounds() -> None:
    """A default is a value that could have been written."""
    for rows in (*settings_table.SECTIONS.values(), *settings_table.FAMILIES.values()):
        for row in rows:
            if row.default is not None and row.low is not None and row.high is not None:
                assert row.low <= row.default <= row.high, row.key
            assert not row.choices or row.default in row.choices


def test_keys_are_unique_and_every_variable_has_one_owner() -> None:
    """Within a section no key twice; LLORCH_PORT cannot mean two things."""
    owners: dict[str, Setting] = {}
    sections = [*settings_table.SECTIONS.values(), settings_table.CLIENT, settings_table.ENVIRONMENT]
    for rows in (*sections, *settings_table.FAMILIES.values()):
        assert len(set(settings_table.keys(rows))) == len(rows)
    for rows in sections:
        for row in rows:
            shared = row.variable == "LLORCH_LOG_FORMAT"  # one habit of a user, for all daemons
            assert not row.variable or row.variable not in owners or shared, row.variable
            owners[row.variable] = row


def test_operations_shows_the_table() -> None:
    """spec/operations.md shows what the code does; else run build/render_settings.py."""
    spec = importlib.util.spec_from_file_location("render_settings", ROOT / "build" / "render_settings.py")
    assert spec is not None and spec.loader is not None
    rendering = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rendering)
    text = (ROOT / "spec" / "operations.md").read_text()
    assert rendering.render(text) == text


def test_the_example_of_operations_is_good() -> None:
    """The llorch.toml printed there has no key that would be refused."""
    from llorch.base.problems import Problems
    from llorch.orchestratord.configuration import Given, understood

    text = (ROOT / "spec" / "operations.md").read_text()
    found = re.search(r"```toml\n(.*?)```", text, re.DOTALL)
    assert found is not None
    problems = Problems()
    read = understood(found[1], Given({}, {}, Path("/x"), Path("/x"), False), problems)
    assert problems.found == [] and read.resolved["port"].origin is Origin.FILE
    assert read.resolved["autospawn"].value is True and Kind.SWITCH.value

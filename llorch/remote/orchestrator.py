"""Which orchestratord a command talks to: --orchestrator, LLORCH_ORCHESTRATOR, llorch.toml, localhost; and its key."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from llorch.base import config
from llorch.base.errors import ConfigError
from llorch.client.endpoint import DEFAULT_URL, read_key
from llorch.client.sync import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to orchestratord."""
    parser.add_argument("--orchestrator", metavar="URL", help=f"orchestratord's URL (default {DEFAULT_URL})")
    parser.add_argument("--key-file", metavar="FILE", help="file with the client key (default: LLORCH_API_KEY)")


def configured_url(env: Mapping[str, str], flag: str | None = None) -> str | None:
    """The URL somebody configured, or None. Raises ConfigError."""
    if flag or env.get("LLORCH_ORCHESTRATOR"):
        return flag or env["LLORCH_ORCHESTRATOR"]
    named = config.load_file(config.config_path(env)).get("orchestrator")
    if named is not None and not isinstance(named, str):
        raise ConfigError("llorch.toml: 'orchestrator' must be a URL in quotes")
    return named or None


def connect(arguments: argparse.Namespace) -> Client:
    """A client for the configured orchestratord; it connects on first use."""
    url = configured_url(os.environ, arguments.orchestrator) or DEFAULT_URL
    return Client(url, key=read_key(os.environ, arguments.key_file))

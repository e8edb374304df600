"""Which orchestratord a command talks to, and its key.

--orchestrator, LLORCH_ORCHESTRATOR, llorch.toml, the one this user runs on this machine, localhost:8080.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from llorch.client.endpoint import DEFAULT_URL, configured_url, read_key
from llorch.client.sync import Client
from llorch.remote import own_orchestratord


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to orchestratord."""
    parser.add_argument("--orchestrator", metavar="URL", help=f"its URL (default: configured, our own, {DEFAULT_URL})")
    parser.add_argument("--key-file", metavar="FILE", help="file with the client key (default: LLORCH_API_KEY)")


def find_url(env: Mapping[str, str], flag: str | None = None) -> str:
    """The URL by the order above. Raises ConfigError."""
    if (named := configured_url(env, flag)) is not None:
        return named
    running = own_orchestratord.find(env)
    return DEFAULT_URL if running is None else running.url


def connect(arguments: argparse.Namespace) -> Client:
    """A client for the configured orchestratord; it connects on first use."""
    return Client(find_url(os.environ, arguments.orchestrator), key=read_key(os.environ, arguments.key_file))

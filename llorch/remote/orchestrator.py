"""Which orchestratord a command talks to: --orchestrator, LLORCH_ORCHESTRATOR, llorch.toml, localhost; and its key."""

from __future__ import annotations

import argparse
import os

from llorch.client.endpoint import DEFAULT_URL, configured_url, read_key
from llorch.client.sync import Client


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every command that talks to orchestratord."""
    parser.add_argument("--orchestrator", metavar="URL", help=f"orchestratord's URL (default {DEFAULT_URL})")
    parser.add_argument("--key-file", metavar="FILE", help="file with the client key (default: LLORCH_API_KEY)")


def connect(arguments: argparse.Namespace) -> Client:
    """A client for the configured orchestratord; it connects on first use."""
    url = configured_url(os.environ, arguments.orchestrator) or DEFAULT_URL
    return Client(url, key=read_key(os.environ, arguments.key_file))

"""`llorch sessions …`: open, list, show and close sessions, by the SDK."""

from __future__ import annotations

import argparse

from llorch.remote import orchestrator, terminal


def _common(parser: argparse.ArgumentParser) -> None:
    orchestrator.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def open_session_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `llorch sessions open`."""
    parser.add_argument("--id", metavar="ID", help="its name (default: a fresh one); an open one gets the new limits")
    parser.add_argument("--ttl-s", type=float, metavar="S", help="forgotten when unused for so long (default 3600)")
    parser.add_argument("--tokens-max", type=int, metavar="N", help="prompt and generated tokens of all its jobs")
    parser.add_argument("--time-max-s", type=float, metavar="S", help="seconds of decoding of all its jobs")
    _common(parser)


def open_session(arguments: argparse.Namespace) -> int:
    """Print its id, for `llorch jobs submit --session ID`."""
    made = orchestrator.connect(arguments).open_session(
        arguments.id, ttl_s=arguments.ttl_s, tokens_max=arguments.tokens_max, time_max_s=arguments.time_max_s
    )
    if arguments.json:
        terminal.write_json(made)
    else:
        print(terminal.shown(made.get("session_id")))
    return 0


list_sessions_arguments = _common


def list_sessions(arguments: argparse.Namespace) -> int:
    """The one used last first."""
    found = orchestrator.connect(arguments).sessions()
    if arguments.json:
        terminal.write_json(found)
        return 0
    keys = ("session_id", "turns", "tokens_used", "tokens_max", "time_used_s", "time_max_s", "expires_at")
    rows = [[terminal.shown(session.get(key)) for key in keys] for session in found.get("sessions", ())]
    terminal.write_table(["SESSION", "TURNS", "TOKENS", "OF", "SECONDS", "OF", "UNTIL"], rows)
    return 0


def _one_session(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("session", metavar="SESSION", help="the session's id")
    _common(parser)


show_arguments = close_arguments = _one_session


def show(arguments: argparse.Namespace) -> int:
    """Its limits and what of them is used."""
    found = orchestrator.connect(arguments).session(arguments.session)
    if arguments.json:
        terminal.write_json(found)
        return 0
    for key, value in found.items():
        terminal.write(f"{key}: {terminal.shown(value)}\n")
    return 0


def close(arguments: argparse.Namespace) -> int:
    """Its jobs go on."""
    closed = orchestrator.connect(arguments).close_session(arguments.session)
    if arguments.json:
        terminal.write_json(closed)
    else:
        print(f"closed {terminal.shown(closed.get('session_id'))}")
    return 0

"""`llorch keys …`: the key store belongs to orchestratord, so this becomes its command on this machine."""

from __future__ import annotations

import os
from typing import NoReturn

from llorch.host import process, runtime


def forward(argv: list[str]) -> NoReturn:
    """Replace this process by `orchestratord keys …`: output, exit code and Ctrl-C are its own."""
    command = [*runtime.daemon_command("orchestratord"), *argv]
    os.execve(command[0], command, process.clean_environment())

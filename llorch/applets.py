"""THE applet table: which name or first word starts which role; dispatch, help, links and frozen imports read it.

A role's entry point has the signature `main(argv, *, prog) -> int` (argv without the program name) and is imported
only when it is called, so that no applet pays for another's imports. This module imports `errno`, `os` and `sys` only.
"""

import errno
import os
import sys

UNKNOWN_APPLET = 127
INTERRUPTED = 130
USAGE = 2
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

_REMOTE = "llorch.remote.main:main"
_POOL = "llorch.pool.main:main"
_WORKER = "llorch.workerd.main:main"


class Applet:
    """One row: how it is called, what it starts, what help says about it."""

    __slots__ = ("extra", "help", "linked", "names", "target", "word")

    def __init__(
        self,
        target: str,
        help_line: str,
        *,
        word: str = "",
        names: tuple[str, ...] = (),
        linked: str = "",
        extra: tuple[str, ...] = (),
    ) -> None:
        """`word` is the first word after `llorch`, `names` are argv[0] names (they work as first words, too).

        `linked` is the name `self install` links; `extra` is put before the user's arguments.
        """
        self.target = target
        self.help = help_line
        self.word = word
        self.names = names
        self.linked = linked
        self.extra = extra

    def answers_to(self, name: str) -> bool:
        """Is this the row for `name`, as a first word or as the program's name?"""
        return name != "" and (name == self.word or name in self.names)


def _worker_with(backend: str) -> Applet:
    """The worker daemon under a name that implies its backend."""
    name, extra = f"llorch-{backend}-candled", ("--backend", backend)
    return Applet(_WORKER, f"worker daemon, backend {backend}", names=(name,), extra=extra)


ROLES = (
    Applet(_REMOTE, "operator's tool: pools over SSH, jobs over HTTP", names=("llorch", "rbees"), linked="llorch"),
    Applet(
        _POOL,
        "this machine's models and workers; with --host, another machine's",
        word="pool",
        names=("llorch-pool", "rbees-pool"),
        linked="llorch-pool",
    ),
    Applet(
        "llorch.orchestratord.main:main",
        "the orchestrator daemon: queue, placement, streaming",
        names=("orchestratord", "rbees-orcd"),
        linked="orchestratord",
    ),
    Applet(
        _WORKER,
        "the worker daemon: one model, served over HTTP",
        word="worker",
        names=("llorch-candled", "rbees-workerd"),
        linked="llorch-candled",
    ),
    _worker_with("cpu"),
    _worker_with("cuda"),
    _worker_with("metal"),
    Applet(
        "llorch.orchestratord.policy_cli:main",
        "policy scripts: check, deploy, remove, replay, simulate",
        word="policy",
    ),
    Applet("llorch.orchestratord.config_cli:main", "llorch.toml: show what holds and why, check a file", word="config"),
    Applet("llorch.applets:run_self", "this program: version, install, links, runtimes, check", word="self"),
)
# Started by other processes of ours only; no help speaks of them.
HIDDEN = (Applet("llorch.scripting.child:main", "", word="policy-child"),)

# First words of `llorch` that llorch.remote.main parses itself: (word, help).
REMOTE_WORDS = (
    ("run", "talk to a model; whatever is missing is brought and started"),
    ("init", "write a first llorch.toml, by three questions"),
    ("infer", "one prompt straight to one worker"),
    ("bench", "compare workers, by the same prompts in turns"),
    ("jobs", "submit, list, show, watch, cancel and explain jobs"),
    ("sessions", "list, open, show and close sessions"),
    ("usage", "what your tenant took by day, and what it has now"),
    ("status", "the cluster at a glance"),
    ("service", "daemons that stay: install, uninstall, status, logs"),
    ("keys", "client keys of the orchestrator"),
    ("demo", "the whole system on this machine, in one minute"),
)
# Words after `llorch pool` that concern the operator's side even without --host.
REMOTE_POOL_WORDS = ("register", "install", "uninstall", "upgrade", "rollback")
# Pairs of them that do: they are about several pools.
REMOTE_POOL_PAIRS = (["models", "copy"], ["model", "copy"])
# A group of the pool CLI that is reached without the word `pool`, too (`llorch dev setup`): it is about this machine.
POOL_GROUP = "dev"
# Words of the pool CLI that people type after a role's name (`llorch worker list`).
POOL_WORKER_WORDS = ("list", "spawn", "stop", "stop-all", "restart", "cleanup", "logs")
# `llorch --model DIR --port 8001` is a worker: the flags that may stand first in such a line.
WORKER_FLAGS = (
    *("--model", "--port", "--worker-id", "--callback-url", "--backend", "--gpu", "--bind", "--token-file"),
    *("--insecure-lan", "--dtype", "--kernels", "--quantize", "--slots", "--context", "--kv-mib", "--threads"),
    "--log-format",
)


def links() -> list[str]:
    """Names that `self install` puts on PATH."""
    return [role.linked for role in ROLES if role.linked]


def find(name: str) -> Applet | None:
    """The row that answers to `name`, if any."""
    return next((role for role in (*ROLES, *HIDDEN) if role.answers_to(name)), None)


def main(argv: list[str] | None = None) -> int:
    """Run the applet that argv[0], else the first word, names; the exit code."""
    if sys.stdout is None:  # closed by the caller (`>&-`)
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (it lives as long as the process)
    try:
        return _dispatch(list(sys.argv if argv is None else argv))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _silence_stdout()
        return _complain(f"cannot write the output: {error.strerror}", 1)


def _dispatch(words: list[str]) -> int:
    name, args = words[0].rpartition("/")[2] if words else "llorch", words[1:]
    if "--debug" in args[: args.index("--") if "--" in args else None]:
        args.remove("--debug")
        os.environ["LLORCH_DEBUG"] = "1"
    role = find(name)
    if role is None or role.target == _REMOTE:
        return _dispatch_word(args)
    return _run(role, args, name)


def _dispatch_word(args: list[str]) -> int:
    """`llorch ARGS`: a role by its word, a word of the remote CLI, or a worker started by its flags."""
    first = args[0] if args else "--help"
    if first in ("--help", "-h", "help"):
        return _print(help_text())
    if first == "--version":
        return _print(_version_line("llorch"))
    if first.partition("=")[0] in WORKER_FLAGS and any(arg.partition("=")[0] == "--model" for arg in args):
        return _run(_row("worker"), args, "llorch")
    if first == POOL_GROUP:
        return _run(_row("pool"), args, "llorch")
    role = find(first)
    if role is not None and role.target != _REMOTE:
        if role.target == _POOL and is_remote_pool(args[1:]):
            return _run(_row("llorch"), ["pool", *args[1:]], "llorch")
        return _run(role, args[1:], f"llorch {first}")
    if role is not None:
        return _dispatch_word(args[1:])
    if first.startswith("-") or any(first == word for word, _ in REMOTE_WORDS):
        return _run(_row("llorch"), args, "llorch")
    return _unknown(first)


def is_remote_pool(args: list[str]) -> bool:
    """Do the words after `llorch pool` concern another machine?"""
    before = args[: args.index("--")] if "--" in args else args
    if any(arg == "--host" or arg.startswith("--host=") for arg in before):
        return True
    return bool(args) and (args[0] in REMOTE_POOL_WORDS or args[:2] in REMOTE_POOL_PAIRS)


def help_text() -> str:
    """What `llorch --help` prints: every role and every word."""
    rows = [(role.word or role.names[0], role.help) for role in ROLES if role.word or role.linked]
    rows = [row for row in rows if row[0] != "llorch"]
    rows += list(REMOTE_WORDS)
    width = max(len(word) for word, _ in rows)
    lines = ["usage: llorch COMMAND [ARGUMENT ...]", "       llorch COMMAND --help", "", "commands:"]
    lines += [f"  {word:<{width}}  {text}" for word, text in rows]
    lines += ["", "A link to this file named after a role starts that role: " + ", ".join(links()[1:]) + "."]
    lines += ["Options of every command: --help, --version, --debug (traceback on errors)."]
    return "\n".join(lines)


def run_self(argv: list[str], *, prog: str) -> int:
    """`self …` works on every applet; it is told the table's links, for the host floor cannot import them."""
    from llorch.host import self_cli

    return self_cli.main(argv, prog=prog, links=links())


def _row(name: str) -> Applet:
    role = find(name)
    assert role is not None, name
    return role


def _run(role: Applet, args: list[str], prog: str) -> int:
    """Call a role's entry point under the one error policy of all applets."""
    if args[:1] == ["self"]:
        role, args, prog = _row("self"), args[1:], f"{prog} self"
    elif args == ["--version"]:
        return _print(_version_line(prog))
    elif role.target == _WORKER and args[:1] and args[0] in POOL_WORKER_WORDS:
        return _complain(f"'{args[0]}' is a command of the pool: try 'llorch pool worker {args[0]}'", USAGE)
    from llorch.base.errors import LlorchError

    try:
        code = _load(role.target)([*role.extra, *args], prog=prog)
        sys.stdout.flush()
    except SystemExit as stop:  # argparse: 0 after --help, 2 after a usage error
        code = _exit_code(stop)
    except ImportError as error:
        if not isinstance(error.__cause__, LlorchError):
            raise
        code = _complain(error.__cause__.message, error.__cause__.exit_code)  # see llorch/host/deferred.py
    except LlorchError as error:
        _show_traceback_when_debugging()
        code = _complain(error.message, error.exit_code)
    except UnicodeEncodeError as error:  # bytes of an argument or a file's name that are no text
        if not any("\ud800" <= character <= "\udfff" for character in error.object):
            raise
        code = _complain("text that is not UTF-8 cannot be sent or shown; is it an argument?", USAGE)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        code = _silence_stdout()
    return code


def _load(target: str):
    module, _, function = target.partition(":")
    return getattr(__import__(module, fromlist=[function]), function)


def _exit_code(stop: SystemExit) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _silence_stdout()
    if isinstance(stop.code, str):
        return _complain(stop.code, 1)
    return int(stop.code or 0)


def _silence_stdout() -> int:
    """The reader went away (`llorch … | head`): stop without a word, also at interpreter exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1


def _show_traceback_when_debugging() -> None:
    if os.environ.get("LLORCH_DEBUG", "") not in ("", "0"):
        import traceback

        traceback.print_exc()


def _unknown(word: str) -> int:
    from llorch.base.config import did_you_mean

    remote = [word for word, _ in REMOTE_WORDS]
    known = [name for role in ROLES for name in (role.word, *role.names) if name] + remote
    shown = [
        role.word or role.linked for role in ROLES if role.word or (role.linked != "llorch" and role.linked)
    ] + remote
    hint = did_you_mean(word, known)
    return _complain(f"unknown command '{word}'{hint}; commands: {', '.join(shown)}", UNKNOWN_APPLET)


def _version_line(prog: str) -> str:
    from llorch import __version__

    return f"{prog} {__version__}"


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        return _silence_stdout()
    return 0


def _complain(message: str, code: int) -> int:
    print("llorch: " + " ".join(message.split()), file=sys.stderr)
    return code

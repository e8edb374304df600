"""The house rules of `spec/architecture.md` as tests: floors, allowed edges, single importers, sizes and bans."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "llorch"

FLOORS = {
    "base": 0,
    "core": 1,
    "batching": 1,
    "wire": 1,
    "host": 2,
    "client": 3,
    "model": 3,
    "store": 3,
    "scripting": 3,
    "web": 3,
    "orchestratord": 4,
    "workerd": 4,
    "pool": 4,
    "remote": 4,
    "applets": 5,
}

# importer -> what it may import besides base; a new edge needs a decision record.
EDGES = {
    "base": set(),
    "core": set(),
    "batching": set(),
    "wire": set(),
    "host": set(),
    "client": {"wire"},
    "model": {"batching", "host.process"},
    "store": {"core"},
    "scripting": {"core", "host.process", "host.children", "host.limits"},
    "web": {"wire"},
    "orchestratord": {
        *("core", "wire", "store", "scripting", "client", "web"),
        *("host.ssh", "host.process", "host.runtime", "host.notify", "host.pool_session", "host.commands"),
        *("host.targets", "host.tunnel", "host.wake"),
    },
    "workerd": {"batching", "wire", "model", "web", "host.runtime", "host.process", "host.cores", "host.notify"},
    "pool": {"wire", "client", "host"},
    "remote": {"wire", "client", "host"},
    "applets": {"host", "orchestratord", "workerd", "pool", "remote"},
}

# library, or a module of one -> the only packages, or folders of one, that may import it.
SINGLE_IMPORTERS = {
    "torch": {"model.graph"},
    "tokenizers": {"model"},
    "safetensors": {"model.graph"},
    "ctypes": {"model", "host"},  # host: prctl, and libraries loaded ahead of those that need them
    "sqlite3": {"store"},
    "starlark": {"scripting"},
    "subprocess": {"host"},
    "signal": {"host"},
    "asyncssh": {"host"},
    "psutil": {"host"},
    "pynvml": {"host"},
    "huggingface_hub": {"host"},
    "jinja2": {"wire"},
    "aiohttp.web": {"web", "orchestratord", "workerd"},
    "aiohttp.web_protocol": {"web"},
    "aiohttp.web_runner": {"web"},
}
# Where one file, not the whole package, is the importer.
SINGLE_FILES = {
    "jinja2": {"wire/templates.py"},
    "uvloop": {"orchestratord/main.py", "workerd/main.py"},
}

PURE = ("core", "batching", "wire")
IMPURE_MODULES = {
    "asyncio",
    "datetime",
    "http",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "secrets",
    "select",
    "socket",
    "tempfile",
    "threading",
    "time",
    "urllib.request",
    "uuid",
}

LINES_MAX = 400
FUNCTION_LINES_MAX = 60

# pattern, what to do instead, paths it does not apply to.
BANS = [
    (r"except Exception\b", "name the error you expect", ()),
    (r"except BaseException\b", "name the error, or use try/finally", ()),
    (r"except\s*:", "name the error you expect", ()),
    (r"\bTODO\b|\bFIXME\b|\bXXX\b", "file an issue; plans do not live in the code", ()),
    (r"TEAM-\d+", "history belongs to git", ()),
    (r"asyncio\.create_task\(", "use the daemon's TaskGroup, so that every task has an owner", ()),
    (r"ensure_future\(", "use the daemon's TaskGroup, so that every task has an owner", ()),
    (r"\bpickle\b", "safetensors and JSON only", ()),
    (r"\btrust_remote_code\b", "remote code is never run", ()),
    (r"\bshell=True\b", "build an argv", ()),
    (
        r"\bweb\.(Application\(|AppRunner|ServerRunner|Server\b|\w+Site\b|run_app|json_response)",
        "one HTTP edge for both daemons: llorch.web",
        ("web/edge.py", "web/listening.py"),
    ),
    (r"known_hosts\s*=\s*None", "host keys are always checked", ()),
]
BANNED_NAMES = ("utils", "helpers", "common", "manager", "misc")
# Paths of a maker's own machine, and registries as they are set up on one.
LOCAL_TRACES = re.compile(r"/work/(main|shared|\.library)|/opt/(wheels|pypi)|/root/\.pyenv|extra-index-url\s*=")


def modules() -> Iterator[Path]:
    yield from sorted(p for p in PACKAGE.rglob("*.py") if "assets" not in p.parts)


MODULES = list(modules())


def ident(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def package_of(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every imported dotted name (`from a import b` gives a.b) and its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the full name"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_imports_go_down_along_allowed_edges(path: Path) -> None:
    """A package imports only along the edges of spec/architecture.md, always from a lower floor."""
    here = package_of(path)
    if here in ("__init__", "__main__"):
        return
    for name, line in imports(path):
        if not name.startswith("llorch."):
            continue
        parts = name.split(".")
        there = parts[1]
        if there in (here, "base") or there not in FLOORS:
            continue
        assert FLOORS[there] < FLOORS[here], (
            f"{ident(path)}:{line}: {here} may not import {there} (same or upper floor)"
        )
        allowed = EDGES[here]
        module = ".".join(parts[1:3])
        assert there in allowed or module in allowed, f"{ident(path)}:{line}: edge {here} -> {module} is not allowed"


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_dangerous_libraries_have_one_importer(path: Path) -> None:
    """Each heavy or dangerous library is imported in one package (or file) only."""
    for name, line in imports(path):
        for library, owners in SINGLE_IMPORTERS.items():
            if name == library or name.startswith(f"{library}."):
                within = {".".join(path.relative_to(PACKAGE).with_suffix("").parts[:2]), package_of(path)}
                assert within & owners, f"{ident(path)}:{line}: {library} belongs to {owners}"
        top = name.split(".")[0]
        if top in SINGLE_FILES:
            assert ident(path) in SINGLE_FILES[top], f"{ident(path)}:{line}: {top} belongs to {SINGLE_FILES[top]}"


@pytest.mark.parametrize("path", [p for p in MODULES if package_of(p) in PURE], ids=ident)
def test_pure_packages_have_no_io_clock_or_chance(path: Path) -> None:
    """core, batching and wire import nothing that touches the world, time or chance."""
    for name, line in imports(path):
        hit = {m for m in IMPURE_MODULES if name == m or name.startswith(m + ".")}
        assert not hit, f"{ident(path)}:{line}: {name} in a pure package; pass the value in as an argument"


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_sizes(path: Path) -> None:
    """A file stops at 400 lines, a function at 60: past that it has two jobs."""
    text = path.read_text()
    assert text.count("\n") <= LINES_MAX, f"{ident(path)} has {text.count(chr(10))} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{ident(path)}:{node.lineno}: {node.name} has {length} lines"


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_bans(path: Path) -> None:
    """Patterns that cost somebody a night are banned; each names what to write instead."""
    text = path.read_text()
    for pattern, instead, exempt in BANS:
        if ident(path) in exempt:
            continue
        hit = re.search(pattern, text)
        assert hit is None, f"{ident(path)}:{text[: hit.start()].count(chr(10)) + 1}: {hit.group(0)!r}: {instead}"
    assert path.stem not in BANNED_NAMES, f"{ident(path)}: name the file by the noun it defines"


@pytest.mark.parametrize("path", MODULES, ids=ident)
def test_every_module_says_what_it_is(path: Path) -> None:
    """Every module opens with one sentence that says what it decides or does."""
    assert ast.get_docstring(ast.parse(path.read_text())), f"{ident(path)} has no docstring"


def test_every_test_states_its_rule() -> None:
    """A test's docstring states the rule it checks."""
    silent = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            is_test = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_")
            if is_test and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not silent, "\n".join(silent)


def tracked_texts() -> Iterator[Path]:
    skip = {".git", ".venv", "out", "work", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"}
    for path in ROOT.rglob("*"):
        if path.is_file() and not skip & set(path.relative_to(ROOT).parts):
            yield path


def test_names_of_test_files_are_their_own() -> None:
    """pytest takes two files of one name in different folders for the same module."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_no_traces_of_a_makers_machine() -> None:
    """No file names a path of one machine or how its package registries are set up."""
    found = []
    for path in tracked_texts():
        if path.suffix in (".safetensors", ".pyc") or path == Path(__file__).resolve():
            continue
        if LOCAL_TRACES.search(path.read_text(errors="replace")):
            found.append(str(path.relative_to(ROOT)))
    assert not found, found


def test_specs_links_lead_somewhere() -> None:
    """Every relative link in README and spec/ points at a file that exists."""
    broken = []
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "spec").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken, broken

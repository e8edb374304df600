"""Extension modules that the onefile does not unpack at every start: they load from the one-folder copy when imported.

The bootloader pays for each megabyte each time; half of them (TLS, SQLite, uvloop, ...) a light command never touches.
Imported at every start of the onefile, so this module imports nothing but `sys`.
"""

import sys

TABLE_FILE = "llorch-deferred.txt"  # by build/freeze.py; a line: module, its file, libraries to load before it
# hashlib asks for it at import and does as well without: the built-in hashes are slower, but 10 ms earlier.
_NEVER = ("_hashlib",)


class Finder:
    """The last finder on sys.meta_path: it is asked for what nobody else has."""

    def __init__(self, bundle: str) -> None:
        self._bundle = bundle
        self._table: dict[str, list[str]] | None = None
        self._is_busy = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        """A spec for deferred module `name`, None for any other; ImportError if the copy cannot be laid out."""
        if name in _NEVER or self._is_busy:  # busy: what lays out the copy cannot itself wait for it
            return None
        if self._table is None:
            with open(f"{self._bundle}/{TABLE_FILE}", encoding="utf-8") as file:
                self._table = {words[0]: words[1:] for words in map(str.split, file)}
        files = self._table.get(name)
        if files is None:
            return None
        self._is_busy = True
        try:
            folder = _copy(name)
        finally:
            self._is_busy = False
        return _spec(name, folder, files)


def _copy(name: str) -> str:
    from llorch.base.errors import HostError
    from llorch.host.runtime import one_folder_program

    try:
        return f"{one_folder_program().parent}/_internal"
    except HostError as error:
        raise ImportError(f"{name}: {error.message}", name=name) from error


def _spec(name: str, folder: str, files: list[str]) -> object:
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import spec_from_file_location

    if files[1:]:
        import ctypes

        for library in files[1:]:  # a library that is loaded already is not searched for
            ctypes.CDLL(f"{folder}/{library}", mode=ctypes.RTLD_GLOBAL)
    location = f"{folder}/{files[0]}"
    return spec_from_file_location(name, location, loader=ExtensionFileLoader(name, location))


def install() -> None:
    """Make deferred modules importable; for the frozen file, before anything else."""
    sys.meta_path.append(Finder(sys._MEIPASS))  # type: ignore[arg-type,attr-defined]

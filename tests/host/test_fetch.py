"""Which files of a repository are fetched, and how the transfer's hashes are kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from llorch.host import fetch
from llorch.host.fetch import RemoteFile


def remote(path: str, data: bytes = b"x", *, large: bool = True) -> RemoteFile:
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return RemoteFile(path, len(data), hashlib.sha256(data).hexdigest() if large else "", git)


@pytest.mark.parametrize(
    ("names", "selected"),
    [
        (["model.safetensors", "config.json"], ["config.json", "model.safetensors"]),
        (["model.safetensors", "tokenizer.model", "x.model"], ["model.safetensors", "tokenizer.model"]),
        (["model.safetensors", "chat_template.jinja", "x.jinja"], ["chat_template.jinja", "model.safetensors"]),
        (["pytorch_model.bin", "config.json", "model.pt"], []),
        (["model.safetensors", "pytorch_model.bin", "run.py", "a.pkl"], ["model.safetensors"]),
        (["model.safetensors", "original/params.json", "onnx/model.safetensors"], ["model.safetensors"]),
        (["model-1-of-1.safetensors", "consolidated.safetensors"], ["model-1-of-1.safetensors"]),
        (["consolidated.safetensors", "params.json"], ["consolidated.safetensors", "params.json"]),
        (["../evil.json", "model.safetensors"], ["model.safetensors"]),
    ],
)
def test_only_weights_json_and_tokenizer_are_selected(names: list[str], selected: list[str]) -> None:
    """Never pickles, code or sub-folders; nothing at all when there are no safetensors; no weights twice."""
    assert [file.path for file in fetch.select([remote(name) for name in names])] == selected


def test_a_partial_file_belongs_to_one_content(tmp_path: Path) -> None:
    """Another revision's bytes can never be continued with this one's."""
    one, other = remote("a.safetensors", b"one"), remote("a.safetensors", b"other")
    assert fetch.partial_path(one, tmp_path) != fetch.partial_path(other, tmp_path)


def test_bytes_on_disk_count_as_present(tmp_path: Path) -> None:
    """The partial file counts before a finished one, and never for more than the file's size."""
    file = remote("a.safetensors", b"12345")
    partial_dir = tmp_path / ".partial"
    partial_dir.mkdir()
    assert fetch.present_bytes(file, tmp_path, partial_dir) == 0
    (tmp_path / "a.safetensors").write_bytes(b"123456789")
    assert fetch.present_bytes(file, tmp_path, partial_dir) == 5
    fetch.partial_path(file, partial_dir).write_bytes(b"12")
    assert fetch.present_bytes(file, tmp_path, partial_dir) == 2


@pytest.mark.parametrize("large", [True, False])
def test_a_digest_knows_the_right_content(tmp_path: Path, large: bool) -> None:
    """Large files are checked by SHA-256, small ones by git's blob id; SHA-256 is known of both."""
    file = remote("a", b"hello world", large=large)
    right, wrong, short = fetch._Digest(file), fetch._Digest(file), fetch._Digest(file)
    right.update(b"hello ")
    right.update(b"world")
    wrong.update(b"hello worle")
    short.update(b"hello")
    assert (right.matches(), wrong.matches(), short.matches()) == (True, False, False)
    assert right.sha256.hexdigest() == hashlib.sha256(b"hello world").hexdigest()

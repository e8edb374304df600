"""The catalog file: built-in models, hiding, aliases, and what is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llorch.base.errors import InvalidRequest, LlorchError, ModelNotFound
from llorch.base.ids import ModelId
from llorch.wire.catalog import (
    BUILT_IN,
    Catalog,
    ModelEntry,
    ModelFile,
    downloaded_as,
    format_catalog,
    id_from_repo,
    is_inside,
    parse_catalog,
)

OWN = ModelEntry(
    ModelId("my-model"),
    "Mine",
    "me/My-Model",
    "llama",
    path="models/my-model",
    files=(ModelFile("model.safetensors", 12, "a" * 64),),
    size_bytes=12,
    revision="b" * 40,
    downloaded=True,
    aliases=("mine",),
)


def test_an_empty_catalog_knows_the_built_in_models() -> None:
    """Models that can be downloaded or spawned unregistered are there from the start, only demo as downloaded."""
    catalog = Catalog()
    assert [e.id for e in catalog.entries()] == ["demo", "qwen-0.5b", "tinyllama", "phi3", "mistral", "llama3-8b"]
    assert [e.id for e in catalog.entries() if e.downloaded] == ["demo"]


def test_an_alias_finds_its_model() -> None:
    """`llama3` is another name of `llama3-8b`."""
    entry = Catalog().find("llama3")
    assert entry is not None
    assert entry.id == "llama3-8b"


def test_an_own_model_may_take_a_name_that_is_an_alias() -> None:
    """An id wins over an alias."""
    own = ModelEntry(ModelId("llama3"), "Mine", "me/Mine", "llama", path="models/llama3")
    assert Catalog().with_entry(own).find("llama3") == own


def test_unregistering_a_built_in_hides_it_until_it_is_stored_again() -> None:
    """A built-in entry cannot be removed, so it is hidden; storing it shows it again, at its old place."""
    hidden = Catalog().without("phi3")
    assert hidden.find("phi3") is None
    again = hidden.with_entry(next(e for e in BUILT_IN if e.id == "phi3"))
    assert [e.id for e in again.entries()] == [e.id for e in BUILT_IN]


def test_removing_an_own_model_leaves_nothing() -> None:
    """Only built-in ids are remembered as hidden."""
    assert Catalog().with_entry(OWN).without("my-model") == Catalog()


def test_the_file_reads_back_as_written() -> None:
    """Formatting and parsing are inverse, hidden ids included."""
    catalog = Catalog().with_entry(OWN).without("demo")
    assert parse_catalog(format_catalog(catalog)) == catalog


def test_fields_of_a_newer_version_survive_a_rewrite() -> None:
    """A field that this version does not know is written back as it came."""
    body = json.loads(format_catalog(Catalog().with_entry(OWN)))
    body["models"][0]["quantized"] = {"bits": 4}
    text = format_catalog(parse_catalog(json.dumps(body).encode()))
    assert json.loads(text)["models"][0]["quantized"] == {"bits": 4}


def test_size_gb_alone_is_enough() -> None:
    """A catalog that states only `size_gb` keeps its size."""
    row = {"id": "a", "path": "models/a", "size_gb": 2.2, "downloaded": True}
    (entry,) = parse_catalog(json.dumps({"models": [row]}).encode()).models
    assert entry.size_gb == 2.2


def test_an_unknown_id_comes_with_a_suggestion() -> None:
    """A typing error is answered with the nearest known id."""
    with pytest.raises(ModelNotFound, match=r"did you mean 'tinyllama'\?"):
        Catalog().get("tinylama")


@pytest.mark.parametrize(
    "row",
    [
        {"id": "../x", "path": "models/x"},
        {"id": "Upper", "path": "models/x"},
        {"id": "x", "path": "/etc"},
        {"id": "x", "path": "models/../../etc"},
        {"id": "x"},
        {"id": "x", "path": "models/x", "revision": "main"},
        {"id": "x", "path": "models/x", "repo": "no-slash"},
        {"id": "x", "path": "models/x", "files": [{"path": "../a", "size_bytes": 1, "sha256": "a" * 64}]},
        {"id": "x", "path": "models/x", "downloaded": "yes"},
    ],
)
def test_a_dangerous_or_wrong_entry_is_refused(row: dict[str, object]) -> None:
    """Ids and paths are checked when read: a catalog cannot name a place outside the model root."""
    with pytest.raises(InvalidRequest):
        parse_catalog(json.dumps({"version": 1, "models": [row]}).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_cleanly(data: bytes) -> None:
    """Either a catalog, or InvalidRequest; never any other error."""
    try:
        parse_catalog(data)
    except LlorchError as error:
        assert isinstance(error, InvalidRequest)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("a", True),
        ("a/b.json", True),
        ("", False),
        ("/a", False),
        ("../a", False),
        ("a/../../b", False),
        ("a\\b", False),
    ],
)
def test_relative_paths(path: str, inside: bool) -> None:
    """A path is inside when its text alone cannot lead out."""
    assert is_inside(path) is inside


def test_a_repository_names_its_model() -> None:
    """`download ORG/REPO` registers under the repository's name in lower case."""
    assert id_from_repo("Qwen/Qwen2.5-0.5B-Instruct") == "qwen2.5-0.5b-instruct"
    with pytest.raises(ModelNotFound):
        id_from_repo("not-a-repo")


def test_a_downloaded_entry_knows_its_size() -> None:
    """The size is the sum of the verified files, in GB; even the smallest model has one."""
    files = (ModelFile("a.safetensors", 900_000_000, "a" * 64), ModelFile("b.json", 40_000_000, "b" * 64))
    entry = downloaded_as(BUILT_IN[1], path="models/qwen-0.5b", revision="c" * 40, files=files)
    assert (entry.downloaded, entry.size_gb, entry.to_body()["size_gb"]) == (True, 0.94, 0.94)
    tiny = downloaded_as(BUILT_IN[1], path="p", revision="c" * 40, files=(ModelFile("a.json", 4_700_000, "a" * 64),))
    assert tiny.size_gb == 0.0047

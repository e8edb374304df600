"""A backup is whole or nothing: what goes in comes out, beside a writer too, and damage of any kind is named."""

from __future__ import annotations

import asyncio
import io
import json
import resource
import sqlite3
import tarfile
import threading
from pathlib import Path

import pytest

from llorch.base.errors import ConfigError, HostError, NotFound
from llorch.base.ids import JobId
from llorch.store import backup, database
from llorch.store.backup import DamagedBackup
from llorch.store.segments import Segments
from llorch.store.store import FILE_NAME, Store
from tests.store.test_store import finished, job

FRAMES = b'id: 1\ndata: {"type":"started"}\n\nid: 2\ndata: {"type":"token","t":"a","i":0}\n\n'


def state(folder: Path) -> Path:
    """A state directory: one queued job, two that ended, one of whose output has expired; a worker token."""

    async def fill() -> None:
        await store.commit([job(1), finished(2, 2000.0), finished(3, 2000.0)])
        await store.forget_outputs([JobId("job-3")])

    folder.mkdir()
    store = Store(folder / FILE_NAME)
    asyncio.run(fill())
    store.close()
    segments = Segments(folder / "segments")
    for name in ("job-2", "job-3", "job-stray"):
        segments.create(JobId(name)).append(FRAMES, 2)
    segments.close()
    (folder / "worker-token").write_text("token")
    (folder / "policy.star").write_text("def admit(task, ctx):\n    return True\n")
    return folder


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    """Jobs, the segments that still count, the token, the policy; strays and expired outputs do not. Private."""
    made = backup.make(state(tmp_path / "state"), tmp_path / "b.tar")
    assert (made.jobs, made.live_jobs, made.segments) == (3, 1, 1)
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar", "state"]
    found = backup.unpack(tmp_path / "b.tar", tmp_path / "new")
    assert found == made
    store = Store(tmp_path / "new" / FILE_NAME)
    assert [record.spec.job_id for record in store.snapshot().jobs] == ["job-1"]
    store.close()
    names = sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*") if path.is_file())
    assert names == ["orchestratord.sqlite", "policy.star", "segments/job-2.frames", "worker-token"]
    assert (tmp_path / "new" / "segments" / "job-2.frames").read_bytes() == FRAMES
    for path in (tmp_path / "new").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_backup_beside_a_writer_is_of_one_moment(tmp_path: Path) -> None:
    """While another connection commits without pause the copy is sound and neither of the two fails."""
    folder = state(tmp_path / "state")
    stop = threading.Event()
    numbers: list[int] = []

    async def write() -> None:
        while not stop.is_set():
            number = 10 + len(numbers)
            await store.commit([job(number), finished(number, 3000.0)])
            numbers.append(number)

    store = Store(folder / FILE_NAME)
    writer = threading.Thread(target=asyncio.run, args=(write(),))
    writer.start()
    while len(numbers) < 20:
        stop.wait(0.001)
    made = backup.make(folder, tmp_path / "b.tar")
    stop.set()
    writer.join()
    store.close()
    assert 22 <= made.jobs <= len(numbers) + 2 and made.live_jobs == 1, "both records of a turn, or neither"
    assert backup.unpack(tmp_path / "b.tar", tmp_path / "new").jobs == made.jobs


def test_a_torn_segment_is_copied_up_to_its_last_sound_frame(tmp_path: Path) -> None:
    """A daemon may be in the middle of a frame."""
    folder = state(tmp_path / "state")
    with open(folder / "segments" / "job-2.frames", "ab") as file:
        file.write(b'id: 3\ndata: {"type":"to')
    backup.make(folder, tmp_path / "b.tar")
    backup.unpack(tmp_path / "b.tar", tmp_path / "new")
    assert (tmp_path / "new" / "segments" / "job-2.frames").read_bytes() == FRAMES


def test_what_cannot_be_backed_up_leaves_nothing(tmp_path: Path) -> None:
    """No database, a target that is there, a damaged database: one clear error, and no partial file."""
    with pytest.raises(NotFound, match="no orchestratord's database"):
        backup.make(tmp_path, tmp_path / "b.tar")
    folder = state(tmp_path / "state")
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        backup.make(folder, tmp_path / "there")
    with pytest.raises(HostError, match="cannot be written"):
        backup.make(folder, tmp_path / "no-such-folder" / "b.tar")
    data = bytearray((folder / FILE_NAME).read_bytes())
    data[4096:12288] = bytes(8192)
    (folder / FILE_NAME).write_bytes(data)
    with pytest.raises(HostError, match="database"):
        backup.make(folder, tmp_path / "b.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state", "there"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Wherever the room ends, in the copy of the database or in the tar: one clear error, and no partial file."""
    folder = state(tmp_path / "state")
    size = (folder / FILE_NAME).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (*range(0, size, 3000), size + 512):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
        try:
            with pytest.raises(HostError):
                backup.make(folder, tmp_path / "b.tar")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert [path.name for path in tmp_path.iterdir()] == ["state"], room


def test_every_cut_and_every_flip_is_found(tmp_path: Path) -> None:
    """A file that broke off anywhere or has a wrong byte in any part of it is refused, never half believed."""
    backup.make(state(tmp_path / "state"), tmp_path / "b.tar")
    whole = (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "b.tar") as tar:
        places = [(entry.offset_data, entry.size, entry.name) for entry in tar]
    damaged = [whole[:cut] for cut in (0, 1, 700, places[1][0] + 3, places[-1][0] - 512, places[-1][0] + 5)]
    for offset, size, _ in places:
        flipped = bytearray(whole)
        flipped[offset + size // 2] ^= 1
        damaged.append(bytes(flipped))
    for number, data in enumerate(damaged):
        (tmp_path / "d.tar").write_bytes(data)
        with pytest.raises(DamagedBackup):
            backup.unpack(tmp_path / "d.tar", tmp_path / f"new-{number}")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "segments/../../evil.frames", "segments/x", "other"])
def test_nothing_is_written_outside(name: str, tmp_path: Path) -> None:
    """A tar that somebody else made writes only names that a backup has."""
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    with pytest.raises(DamagedBackup, match="not its own"):
        backup.unpack(tmp_path / "b.tar", tmp_path / "new")
    assert not list(tmp_path.rglob("*evil*"))


def test_links_are_refused(tmp_path: Path) -> None:
    """A link under a name of ours would let the next member write through it."""
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        entry = tarfile.TarInfo("orchestratord.sqlite")
        entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(DamagedBackup, match="not its own"):
        backup.unpack(tmp_path / "b.tar", tmp_path / "new")


def test_a_backup_of_a_newer_llorch_is_refused(tmp_path: Path) -> None:
    """Its schema or its format is not known here."""
    folder = state(tmp_path / "state")
    backup.make(folder, tmp_path / "b.tar")
    with tarfile.open(tmp_path / "b.tar") as tar:
        parts = {entry.name: (tar.extractfile(entry) or io.BytesIO()).read() for entry in tar}
    about = json.loads(parts["manifest.json"])
    parts["manifest.json"] = json.dumps({**about, "format": 2}).encode()
    with tarfile.open(tmp_path / "f.tar", "w") as tar:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    with pytest.raises(DamagedBackup, match="newer llorch"):
        backup.unpack(tmp_path / "f.tar", tmp_path / "new-1")
    connection = sqlite3.connect(folder / FILE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(database.SchemaTooNew):
        backup.make(folder, tmp_path / "n.tar")


def test_an_older_schema_is_backed_up_as_it_is(tmp_path: Path) -> None:
    """A backup is not the moment to migrate: the copy has the schema of its source, and opens like it."""
    folder = tmp_path / "state"
    folder.mkdir()
    database.open_writer(folder / FILE_NAME, database.SCRIPTS[:1]).close()
    backup.make(folder, tmp_path / "b.tar")
    backup.unpack(tmp_path / "b.tar", tmp_path / "new")
    connection = sqlite3.connect(tmp_path / "new" / FILE_NAME)
    assert connection.execute("PRAGMA user_version").fetchone() == (1,)
    connection.close()
    Store(tmp_path / "new" / FILE_NAME).close()


def test_an_opened_database_gives_free_space_back(tmp_path: Path) -> None:
    """A file that is for the most part free pages is small again after the next start; one that is not stays."""
    path = tmp_path / FILE_NAME
    Store(path).close()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("CREATE TABLE ballast (data BLOB)")
    for _ in range(database.COMPACT_FREE_MIN >> 20):
        connection.execute("INSERT INTO ballast VALUES (zeroblob(1100000))")
    Store(path).close()
    assert path.stat().st_size > database.COMPACT_FREE_MIN
    connection.execute("DROP TABLE ballast")
    connection.close()
    Store(path).close()
    assert path.stat().st_size < 1 << 20

"""The segment: what was appended is there after kill -9, whole frames only, at any place in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llorch.base.errors import HostError, StorageUnavailable
from llorch.base.ids import JobId
from llorch.store import segments
from llorch.store.segments import Segment, Segments
from llorch.wire import events, sse

JOB = JobId("job-1")


def token_frame(index: int) -> bytes:
    """Token `index` as clients get it."""
    return sse.encode(events.token(f" é{index}\n", index, [index, index + 1000]), index + 2)


def fill(segment: Segment, count: int) -> bytes:
    """`started` and so many tokens; all bytes."""
    started = sse.encode(events.started(segment.job_id, "m", "t"), 1)
    segment.append(started, 1)
    for index in range(count):
        segment.append(token_frame(index), index + 2)
    return started + b"".join(token_frame(index) for index in range(count))


def test_frames_come_back_from_any_place(tmp_path: Path) -> None:
    """Behind each event id lie exactly the later frames."""
    segment = Segments(tmp_path / "s").create(JOB)
    data = fill(segment, 12)
    assert segment.frames == 12 and segment.last_id == 13 and segment.read_all() == data
    for after in range(-1, 16):
        rest = segment.read(segment.offset_after(after), 1 << 20)
        ids = [int(line[3:]) for line in rest.split(b"\n") if line.startswith(b"id:")]
        assert ids == list(range(max(1, after + 1), 14))
    assert segment.text() == "".join(f" é{index}\n" for index in range(12))
    assert segment.token_ids() == [n for index in range(12) for n in (index, index + 1000)]


def test_recovery_cuts_a_torn_tail_anywhere(tmp_path: Path) -> None:
    """Whatever prefix of the file is left after a crash: whole frames are kept, the rest is cut, appending goes on."""
    folder = Segments(tmp_path / "s")
    data = fill(folder.create(JOB), 3)
    folder.close()
    path = next((tmp_path / "s").iterdir())
    for size in range(len(data) + 1):
        path.write_bytes(data[:size])
        segment = Segments(tmp_path / "s").open(JOB)
        whole = data[:size].rfind(b"\n\n") + 2 if b"\n\n" in data[:size] else 0
        assert segment.read_all() == data[:whole] == path.read_bytes()
        assert segment.last_id == data[:whole].count(b"\n\n")
        index = segment.frames
        segment.append(token_frame(index), index + 2)
        assert segment.read_all() == data[:whole] + token_frame(index)


def test_files_are_private_and_removed(tmp_path: Path) -> None:
    """Mode 0600 in a 0700 folder; removing twice is no error; a job without frames has no file."""
    folder = Segments(tmp_path / "s")
    folder.create(JobId("empty"))
    fill(folder.create(JOB), 1)
    (path,) = (tmp_path / "s").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600 and (tmp_path / "s").stat().st_mode & 0o777 == 0o700
    assert folder.names() == [JOB]
    folder.remove([JOB])
    folder.remove([JOB])
    assert folder.names() == []


def test_a_removed_segment_stays_removed(tmp_path: Path) -> None:
    """Whoever still reads it is told, instead of waiting for ever at an empty file; so with one that was cut."""
    owner = Segments(tmp_path / "s")
    segment = owner.create(JOB)
    fill(segment, 12)
    owner.remove([JOB])
    with pytest.raises(StorageUnavailable):
        segment.read(0, 100)
    assert owner.names() == []
    fill(owner.create(JOB), 1)
    os.truncate(tmp_path / "s" / "job-1.frames", 0)
    with pytest.raises(StorageUnavailable):
        segment.read(0, 100)


def test_open_files_are_bounded(tmp_path: Path) -> None:
    """More segments than may be open at once: all of them can still be appended to and read."""
    folder = Segments(tmp_path / "s", open_files_max=4)
    many = [folder.create(JobId(f"job-{n}")) for n in range(20)]
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    data = {segment.job_id: fill(segment, 2) for segment in many}
    assert all(segment.read_all() == data[segment.job_id] for segment in many)
    if before:
        assert len(os.listdir("/proc/self/fd")) <= before + 4
    folder.close()


def test_a_refusing_disk_spills_into_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk refuses, frames stay readable from memory up to a bound; past it the segment says no."""
    monkeypatch.setattr(segments, "SPILL_SIZE_MAX", 400)
    folder = Segments(tmp_path / "s")
    segment = folder.create(JOB)
    data = fill(segment, 2)
    folder.close()
    (tmp_path / "s" / f"{JOB}.frames").rename(tmp_path / "moved")
    (tmp_path / "s" / f"{JOB}.frames").symlink_to("/dev/full")
    segment.append(token_frame(2), 4)
    segment.append(token_frame(3), 5)
    assert segment.read(len(data), 1 << 20) == token_frame(2) + token_frame(3)
    assert segment.frames == 4
    with pytest.raises(StorageUnavailable):
        for index in range(4, 40):
            segment.append(token_frame(index), index + 2)


@pytest.mark.parametrize(
    "damage", [b"\0" * 20, b"\n\nid: zz\ndata: {}\n\n", b"\xff\xfe\n\nid: 9\n", b'"}\n\nid: 7\ndata: {}\n\n']
)
def test_recovery_keeps_what_is_sound_before_any_damage(tmp_path: Path, damage: bytes) -> None:
    """Rubbish in the middle, as a power loss may leave it: the sound frames before it are kept, appending goes on."""
    folder = Segments(tmp_path / "s")
    data = fill(folder.create(JOB), 6)
    folder.close()
    path = next((tmp_path / "s").iterdir())
    place = data.index(b"id: 5\n") + 10
    path.write_bytes(data[:place] + damage + data[place + len(damage) :])
    segment = Segments(tmp_path / "s").open(JOB)
    assert segment.read_all() == path.read_bytes() == data[: data.index(b"id: 5\n")]
    assert segment.last_id == 4 and segment.frames == 3
    segment.append(token_frame(3), 5)
    assert segment.read_all() == data[: data.index(b"id: 6\n")]


def test_what_the_disk_refused_is_written_later(tmp_path: Path) -> None:
    """Opening a segment that is partly in memory gives all of it; once the disk takes it, it is in the file."""
    folder = Segments(tmp_path / "s")
    segment = folder.create(JOB)
    fill(segment, 1)
    path, kept = tmp_path / "s" / f"{JOB}.frames", tmp_path / "kept"
    folder.release(JOB)
    path.rename(kept)
    path.symlink_to("/dev/full")
    segment.append(token_frame(1), 3)
    folder.settle()
    assert folder.open(JOB).frames == 2 and folder.spilled
    folder.release(JOB)
    kept.replace(path)
    folder.settle()
    assert not folder.spilled and Segments(tmp_path / "s").open(JOB).token_ids() == [0, 1000, 1, 1001]
    folder.close()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    """Something else lies where the segments belong: HostError, which the daemon prints as one line."""
    (tmp_path / "s").write_text("a file")
    with pytest.raises(HostError, match="cannot be made"):
        Segments(tmp_path / "s")

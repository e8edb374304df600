"""The segment: one append-only file per job, holding its event frames exactly as clients get them.

A frame is `id: N\\ndata: {...}\\n\\n`; the first is `started` (id 1), token i has id i + 2; the terminal event is not
in it. A frame is in the file before any client sees it, so after `kill -9` every client can be given exactly what it
misses. When the disk refuses (full, read-only) a bounded remainder stays in memory, the stream goes on, and `settle`
tries again.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

from llorch.base import log
from llorch.base.errors import HostError, StorageUnavailable
from llorch.base.ids import JOB_ID, JobId

logger = log.get(__name__)

OPEN_FILES_MAX = 256
SPILL_SIZE_MAX = 4 << 20
SUFFIX = ".frames"
_FIRST_TOKEN_ID = 2
_FRAME = re.compile(rb"id: (\d{1,19})\ndata: ([^\n]*)\n\n")


class Segment:
    """The frames of one job. `size` bytes may be read; `last_id` is the id of the last frame, 0 when there is none."""

    __slots__ = ("_newest", "_owner", "_spill", "_stored", "job_id", "last_id")

    def __init__(self, owner: Segments, job_id: JobId) -> None:
        self._owner = owner
        self._spill = bytearray()
        self._stored = 0
        self._newest = (-1, b"")
        self.job_id = job_id
        self.last_id = 0

    @property
    def size(self) -> int:
        """Bytes held; always the end of a whole frame."""
        return self._stored + len(self._spill)

    @property
    def frames(self) -> int:
        """Token frames held: the index the next one must have."""
        return max(0, self.last_id - _FIRST_TOKEN_ID + 1)

    def append(self, data: bytes, last_id: int) -> None:
        """Add whole frames, the last of which has `last_id`. Raises StorageUnavailable when not even memory is left."""
        if self._spill or not self._write(data):
            if len(self._spill) + len(data) > SPILL_SIZE_MAX:
                raise StorageUnavailable("the segment of the job cannot be written and its memory is used up")
            self._spill += data
            self._owner.spilled[self.job_id] = self
        # Readers that keep up take the newest frames from memory.
        self._newest = (self.size - len(data), data)
        self.last_id = last_id

    def _write(self, data: bytes) -> bool:
        try:
            fd = self._owner.for_appending(self.job_id)
            written = os.write(fd, data)
            if written == len(data):
                self._stored += written
                return True
            os.ftruncate(fd, self._stored)
            reason: object = "short write"
        except OSError as error:
            reason = error.strerror
        log.event(
            logger, f"the segment of the job cannot be written: {reason}", level=logging.ERROR, job_id=self.job_id
        )
        return False

    def settle(self) -> bool:
        """Write what the disk refused before; is everything on disk now?"""
        if self._spill and self._write(bytes(self._spill)):
            self._spill.clear()
        return not self._spill

    def read(self, offset: int, size_max: int) -> bytes:
        """At most `size_max` bytes from `offset`; empty at the end. Raises StorageUnavailable."""
        if offset == self._newest[0] and len(self._newest[1]) <= size_max:
            return self._newest[1]
        if offset >= self._stored:
            at = offset - self._stored
            return bytes(self._spill[at : at + size_max])
        try:
            fd = self._owner.for_reading(self.job_id)
            data = os.pread(fd, min(size_max, self._stored - offset), offset)
        except OSError as error:
            raise StorageUnavailable(f"the segment of the job cannot be read: {error.strerror}") from None
        if not data:
            raise StorageUnavailable("the segment of the job is shorter than it was")
        return data

    def read_all(self) -> bytes:
        """Every frame."""
        parts = []
        offset = 0
        while data := self.read(offset, 1 << 20):
            parts.append(data)
            offset += len(data)
        return b"".join(parts)

    def offset_after(self, event_id: int) -> int:
        """Where the frame behind `event_id` begins; the end when there is none yet."""
        if event_id < 1:
            return 0
        if event_id >= self.last_id:
            return self.size
        mark = b"id: %d\n" % (event_id + 1)
        data = self.read_all()
        # JSON never holds a raw newline, so the mark can only match at the start of a frame.
        return 0 if data.startswith(mark) else data.index(b"\n\n" + mark) + 2

    def events(self) -> list[dict[str, object]]:
        """The parsed events."""
        return [json.loads(line[5:]) for line in self.read_all().split(b"\n") if line.startswith(b"data:")]

    def text(self) -> str:
        """All token text joined."""
        return "".join(str(event["t"]) for event in self.events() if event.get("type") == "token")

    def token_ids(self) -> list[int] | None:
        """Every token id in order, as a continuation needs them; None when a frame came without ids."""
        ids: list[int] = []
        for event in self.events():
            if event.get("type") == "token":
                part = event.get("ids")
                if not isinstance(part, list):
                    return None
                ids += part
        return ids

    def model(self) -> str | None:
        """The model that `started` named; None before. Raises StorageUnavailable."""
        named = next((event.get("model") for event in self.events() if event.get("type") == "started"), None)
        return named if isinstance(named, str) and named else None

    def token_count(self) -> int:
        """How many tokens there are; a frame without ids counts as one. Raises StorageUnavailable."""
        ids = self.token_ids() if self.frames else []
        return self.frames if ids is None else len(ids)

    def release(self) -> None:
        """Close the file; reading or appending opens it again."""
        self._owner.release(self.job_id)

    def recover(self) -> None:
        """Take over a file that another process left: what lies behind the last sound frame is cut off."""
        path = self._owner.path(self.job_id)
        data = path.read_bytes()
        self._stored, self.last_id = sound_part(data)
        if self._stored < len(data):
            if b"\n\n" in data[self._stored :]:  # more than the torn tail that every kill may leave
                log.event(logger, "a segment is damaged; its end is dropped", level=logging.ERROR, job_id=self.job_id)
            os.truncate(path, self._stored)


def sound_part(data: bytes) -> tuple[int, int]:
    """(bytes, last id) of the frames from the start of a segment that are whole and count 1, 2, 3 …

    A power loss may leave any page of a file as zeros, not only the last one.
    """
    end = last_id = 0
    while (frame := _FRAME.match(data, end)) is not None and int(frame[1]) == last_id + 1 and _is_event(frame[2]):
        end, last_id = frame.end(), last_id + 1
    return end, last_id


def _is_event(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


class Segments:
    """The folder of segments; keeps at most `open_files_max` of them open."""

    def __init__(self, folder: Path, open_files_max: int = OPEN_FILES_MAX) -> None:
        """Raises HostError when the folder cannot be made."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"the folder {folder} cannot be made: {error.strerror}") from None
        self._folder = folder
        self._open_files_max = open_files_max
        self.spilled: dict[JobId, Segment] = {}
        self._open: OrderedDict[str, int] = OrderedDict()

    def path(self, job_id: str) -> Path:
        """Where the segment of a job lies."""
        assert JOB_ID.fullmatch(job_id), "job ids are checked at the edge"
        return self._folder / (job_id + SUFFIX)

    def open(self, job_id: JobId) -> Segment:
        """The segment of a job; what another process wrote is taken over. Raises StorageUnavailable."""
        if (known := self.spilled.get(job_id)) is not None:
            return known  # part of it is in memory only
        segment = Segment(self, job_id)
        try:
            segment.recover()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise StorageUnavailable(f"the segment of the job cannot be read: {error.strerror}") from None
        return segment

    def create(self, job_id: JobId) -> Segment:
        """The empty segment of a job nobody has seen before; no file is made until something is written."""
        return Segment(self, job_id)

    def for_appending(self, job_id: str) -> int:
        """The open file, made when it is not there yet. Raises OSError."""
        return self._descriptor(job_id, os.O_CREAT)

    def for_reading(self, job_id: str) -> int:
        """The open file; one that was removed does not come back. Raises OSError."""
        return self._descriptor(job_id, 0)

    def _descriptor(self, job_id: str, flags: int) -> int:
        """An open file for both; the least recently used one makes room."""
        fd = self._open.get(job_id)
        if fd is not None:
            self._open.move_to_end(job_id)
            return fd
        if len(self._open) >= self._open_files_max:
            _, oldest = self._open.popitem(last=False)
            os.close(oldest)
        fd = os.open(self.path(job_id), os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
        self._open[job_id] = fd
        return fd

    def release(self, job_id: str) -> None:
        """Close the job's file; reading opens it again."""
        if (fd := self._open.pop(job_id, None)) is not None:
            os.close(fd)

    def remove(self, job_ids: Iterable[str]) -> None:
        """Delete segments; those that are not there are no error."""
        for job_id in job_ids:
            self.spilled.pop(JobId(job_id), None)
            self.release(job_id)
            self.path(job_id).unlink(missing_ok=True)

    def settle(self) -> None:
        """Write what the disk refused before, until it refuses again; call from time to time."""
        for job_id, segment in list(self.spilled.items()):
            if not segment.settle():
                return
            del self.spilled[job_id]

    def names(self) -> list[str]:
        """The jobs that have a file."""
        return [path.name.removesuffix(SUFFIX) for path in self._folder.iterdir() if path.name.endswith(SUFFIX)]

    def close(self) -> None:
        """Close every file."""
        while self._open:
            os.close(self._open.popitem()[1])

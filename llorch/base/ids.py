"""Names of things: one NewType per kind of id, the rule each must match, and how a fresh one is minted."""

from __future__ import annotations

import os
import re
from typing import NewType

JobId = NewType("JobId", str)
WorkerId = NewType("WorkerId", str)
ModelId = NewType("ModelId", str)
PoolId = NewType("PoolId", str)
SessionId = NewType("SessionId", str)
TenantId = NewType("TenantId", str)

DEFAULT_TENANT = TenantId("default")

MODEL_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
WORKER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
TENANT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
CORRELATION_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
SEED_MAX = 2**64 - 1


def new_job_id() -> JobId:
    """A fresh `job-<uuid4>`."""
    return JobId(f"job-{_uuid4()}")


def _uuid4() -> str:
    """A random UUID of version 4; the uuid module takes thrice as long, and 5 ms to import."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def new_session_id() -> SessionId:
    """A fresh `session-<uuid4>`."""
    return SessionId(f"session-{_uuid4()}")


def new_idempotency_key() -> str:
    """A fresh `once-<uuid4>`: a request that is sent twice makes one job."""
    return f"once-{_uuid4()}"


def new_worker_id(backend: str) -> WorkerId:
    """A fresh `worker-<backend>-<hex>`."""
    return WorkerId(f"worker-{backend}-{os.urandom(4).hex()}")


def new_seed() -> int:
    """A fresh sampling seed, uint64 but below 2**53 so that every JSON reader keeps it exact."""
    return int.from_bytes(os.urandom(7), "big") >> 3


def correlation_id(offered: str | None) -> str:
    """The caller's X-Correlation-Id when it is well formed, else a fresh one."""
    if offered is not None and CORRELATION_ID.fullmatch(offered):
        return offered
    return _uuid4()

"""Who may do what: client keys (only hashes are kept), the worker token, and keyless loopback in home mode."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

from aiohttp import web

from llorch.base.addresses import is_loopback, parse
from llorch.base.errors import ConfigError, Unauthorized
from llorch.base.ids import DEFAULT_TENANT, TenantId, WorkerId
from llorch.orchestratord.settings import LanAccess, Mode, Settings
from llorch.store.client_keys import ClientKey

KEY_PREFIX = "llorch-"
_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


def new_key() -> str:
    """A fresh client key with 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def fingerprint(key: str) -> str:
    """What of a key is stored: its SHA-256."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Access:
    """Answers for every request: which tenant is it, and may it speak as a worker."""

    def __init__(self, mode: Mode, lan_access: LanAccess, worker_token: str) -> None:
        self._mode = mode
        self._lan_access = lan_access
        self._worker_token = worker_token
        self._keys: list[ClientKey] = []
        self._vouched: set[tuple[WorkerId, str]] = set()

    def set_keys(self, keys: Iterable[ClientKey]) -> None:
        """The keys that open the door from now on."""
        self._keys = [key for key in keys if key.revoked_at is None]

    @property
    def isolated(self) -> bool:
        """Do tenants see only their own jobs?"""
        return self._mode is not Mode.HOME

    def tenant(self, request: web.Request) -> TenantId:
        """Whose request this is. Raises Unauthorized."""
        offered = _offered(request)
        found = self._find(offered) if offered else None
        if found is not None:
            return TenantId(found) if self.isolated else DEFAULT_TENANT
        if self._is_open_to(request):
            return DEFAULT_TENANT
        raise Unauthorized()

    def _find(self, offered: str) -> str | None:
        """The key's tenant. Every stored hash is compared, so that the time taken tells nothing."""
        digest = fingerprint(offered)
        found = None
        for key in self._keys:
            if hmac.compare_digest(digest, key.sha256):
                found = key.tenant
        return found

    def _is_open_to(self, request: web.Request) -> bool:
        if self._mode is Mode.HOME and self._lan_access is LanAccess.OPEN:
            return is_same_site(request)
        return self._mode is Mode.HOME and is_local(request) and is_same_site(request)

    def vouches_for_worker(self, request: web.Request) -> bool:
        """Did the caller show the worker token? Raises Unauthorized when it had to and did not."""
        offered = _offered(request)
        if offered and hmac.compare_digest(fingerprint(offered), fingerprint(self._worker_token)):
            return True
        if self._is_open_to(request):
            return False
        raise Unauthorized("the worker token is needed: send it as 'Authorization: Bearer TOKEN'")

    def is_operators(self, request: web.Request) -> bool:
        """Does it come from this machine, or with the worker token?"""
        offered = _offered(request)
        if offered and hmac.compare_digest(fingerprint(offered), fingerprint(self._worker_token)):
            return True
        return is_local(request) and is_same_site(request)

    # Vouching: the token is shown only to a worker that is known to have it, at the address it had it at. An id alone
    # proves nothing: once its worker is lost, anybody who may announce may announce the same id elsewhere.

    def vouch(self, worker_id: WorkerId, url: str) -> None:
        """The worker at `url` showed the token, or an operator named its address."""
        self._vouched.add((worker_id, url))

    def vouched(self, worker_id: WorkerId, url: str) -> bool:
        """Does the worker with this id, at this address, have the token?"""
        return (worker_id, url) in self._vouched

    def token_for(self, worker_id: WorkerId, url: str) -> str | None:
        """What to show to this worker."""
        return self._worker_token if self.vouched(worker_id, url) else None

    def forget(self, worker_id: WorkerId, url: str) -> None:
        """It announced itself without the token, or is off the list."""
        self._vouched.discard((worker_id, url))

    def forget_others(self, known: Iterable[tuple[WorkerId, str]]) -> None:
        """Forget all but these workers at these addresses."""
        self._vouched &= set(known)


def _offered(request: web.Request) -> str | None:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return request.headers.get("x-api-key", "").strip() or None


def is_local(request: web.Request) -> bool:
    """Does the request come from this machine, and not through a proxy that runs on it?"""
    proxied = any(name in request.headers for name in _PROXY_HEADERS)
    return not proxied and request.remote is not None and is_loopback(request.remote)


def is_same_site(request: web.Request) -> bool:
    """Could no foreign web page have sent this? A page may reach loopback through the user's own browser.

    Its Origin gives it away, or, when it points a name of its own at our address, the name in Host does.
    """
    netloc, name = _host(request.headers.get("Host", ""))
    if name is None:
        return False
    if "." in name and not is_loopback(name) and parse(name) is None and is_local(request):
        return False
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == netloc


@lru_cache(maxsize=256)
def _host(header: str) -> tuple[str, str | None]:
    """A Host header as it stands in a URL, and its name without the port; no name: there cannot be such a host."""
    try:
        parts = urlsplit(f"//{header}")
        return parts.netloc, parts.hostname or ""
    except ValueError:
        return header, None


def check_binding(settings: Settings, keys: Iterable[ClientKey]) -> None:
    """Refuse to listen where anybody could come in. Raises ConfigError with the way out."""
    has_key = any(key.revoked_at is None for key in keys)
    make_one = "make one with 'orchestratord keys create NAME'"
    if settings.mode is not Mode.HOME:
        if settings.lan_access is LanAccess.OPEN:
            raise ConfigError(f"--insecure-lan is for --mode home only, not {settings.mode.value}")
        if not has_key:
            raise ConfigError(f"--mode {settings.mode.value} needs a client key: {make_one}")
    elif not is_loopback(settings.bind) and not has_key and settings.lan_access is LanAccess.GUARDED:
        raise ConfigError(
            f"--bind {settings.bind} would let everybody on the network in: {make_one}, or say --insecure-lan"
        )

"""Where a service is and how to prove who we are: URL, key, TLS and time-outs in one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from llorch import __version__
from llorch.base import config
from llorch.base.addresses import netloc
from llorch.base.errors import ConfigError

if TYPE_CHECKING:
    import ssl

DEFAULT_URL = "http://localhost:8080"
KEY_SIZE_MAX = 4096
CONNECT_TIMEOUT_S = 10.0
# Pings come every 15 s: a stream that is silent for three of them is dead.
STREAM_IDLE_TIMEOUT_S = 45.0
ANSWER_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A checked URL (scheme, host, port, path prefix) and the bearer key, if any."""

    scheme: str
    host: str
    port: int
    prefix: str
    key: str | None

    @property
    def url(self) -> str:
        """The URL as it is shown to people."""
        return f"{self.scheme}://{netloc(self.host, self.port)}{self.prefix}"

    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        headers = {"User-Agent": f"llorch/{__version__}", "Accept": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        return headers

    def tls(self) -> ssl.SSLContext | None:
        """The TLS settings of an https URL: system roots (SSL_CERT_FILE is honoured), host names checked."""
        if self.scheme != "https":
            return None
        import ssl

        return ssl.create_default_context()


def parse(url: str, key: str | None = None) -> Endpoint:
    """Check a URL; a bare HOST:PORT means http. Raises ConfigError."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise ConfigError(f"'{url}' is not a URL") from None
    if parts.scheme not in ("http", "https") or not _is_host(parts.hostname) or parts.query or parts.fragment:
        raise ConfigError(f"'{url}' is not a URL like http://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a key never belongs into a URL; use LLORCH_API_KEY or a key file")
    if key is not None and (not key.isascii() or not key.isprintable() or not key or " " in key):
        raise ConfigError("the API key holds characters that no key has")
    return Endpoint(
        scheme=parts.scheme,
        host=parts.hostname or "",
        port=port if port is not None else {"http": 80, "https": 443}[parts.scheme],
        prefix=parts.path.rstrip("/"),
        key=key,
    )


def _is_host(name: str | None) -> bool:
    """Can it be looked up? The system's function does not say no, but breaks."""
    if not name:
        return False
    if name.isascii():  # the codec for the others takes 5 ms to import
        return all(0 < len(label) < 64 for label in name.removesuffix(".").split("."))
    try:
        return bool(name.encode("idna"))
    except UnicodeError:
        return False


def configured_url(env: Mapping[str, str], flag: str | None = None) -> str | None:
    """The URL somebody configured, or None. Raises ConfigError."""
    if flag or env.get("LLORCH_ORCHESTRATOR"):
        return flag or env["LLORCH_ORCHESTRATOR"]
    named = config.load_file(config.config_path(env)).get("orchestrator")
    if named is not None and not isinstance(named, str):
        raise ConfigError("llorch.toml: 'orchestrator' must be a URL in quotes")
    return named or None


def read_key(env: Mapping[str, str], key_file: str | None = None) -> str | None:
    """The client key: the file that was named, else LLORCH_API_KEY, else none. Raises ConfigError."""
    if key_file is None:
        return env.get("LLORCH_API_KEY", "").strip() or None
    try:
        with open(Path(key_file).expanduser(), encoding="ascii") as file:
            key = file.read(KEY_SIZE_MAX).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"key file {key_file}: {error}") from None
    if not key:
        raise ConfigError(f"key file {key_file} is empty")
    return key

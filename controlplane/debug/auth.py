"""The doors of `/debug`: who may read it.

Owns the rule of who is local, how a bearer token is compared and what a token opens. Must not
know HTTP frameworks: it takes an address, a Host header and an Authorization header. The rule
that is easy to break: only the address of the TCP connection counts; X-Forwarded-For is written
by the caller and is never read.

A caller on the loopback interface needs no token. A browser on this machine is such a caller,
and a web page can make it ask under the page's own DNS name that it points at 127.0.0.1 (DNS
rebinding). Without a token, the Host header therefore has to be an IP address or `localhost`.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from controlplane.errors import PylotError, UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a token belongs to. `privileged` opens every endpoint and every proxy; any other
    identity sees the proxies of its own namespace only."""

    name: str
    namespace: str = ""
    privileged: bool = False


class Authenticator(Protocol):
    """Knows some tokens: the token file here, Kubernetes' TokenReview elsewhere."""

    async def authenticate(self, token: str) -> Identity | None:
        """Return whose token this is, None when it is not known here."""
        ...


class RefusedError(PylotError):
    """The caller may not read this; `status` is 401 (who are you?) or 403 (not you)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


ANYONE: Final = Identity(name="anyone", privileged=True)
LOCAL: Final = Identity(name="loopback", privileged=True)


class TokenFile:
    """The token of `--debug-token-file`, read again whenever the file changes.

    A file that is missing, unreadable or empty opens nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = b""

    async def authenticate(self, token: str) -> Identity | None:
        """Return a privileged identity when the token is the file's (constant time)."""
        expected = self._current()
        if not expected or not hmac.compare_digest(token.encode(), expected):
            return None
        return Identity(name="debug-token-file", privileged=True)

    def _current(self) -> bytes:
        try:
            found = self._path.stat()
            stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
            if stamp != self._stamp:
                self._token = self._path.read_bytes().strip()
                self._stamp = stamp
        except OSError:
            self._stamp = None
            self._token = b""
        return self._token


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Who is let in: loopback callers, holders of a token, or (insecure) everybody."""

    authenticators: Sequence[Authenticator] = field(default_factory=tuple)
    insecure: bool = False

    async def admit(self, *, peer: str, host: str, authorization: str) -> Identity:
        """Return who is asking; raises RefusedError with 401 or 403.

        `peer` is the address of the TCP connection, `host` and `authorization` are headers.
        """
        if self.insecure:
            return ANYONE
        local = is_loopback(peer)
        if local and is_own_name(host):
            return LOCAL
        if authorization:
            return await self._bearer(authorization)
        if local:
            raise RefusedError(
                403,
                f"the Host header {host!r} is neither an IP address nor localhost: ask for "
                "http://127.0.0.1 or send a bearer token",
            )
        raise RefusedError(401, self._how())

    async def _bearer(self, authorization: str) -> Identity:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise RefusedError(401, "the Authorization header is not of the form `Bearer TOKEN`")
        if token.isascii():  # other bytes of a header cannot even be sent on
            for authenticator in self.authenticators:
                identity = await authenticator.authenticate(token)
                if identity is not None:
                    return identity
        raise RefusedError(401, "the bearer token is not valid")

    def _how(self) -> str:
        if self.authenticators:
            return "callers from other machines need a bearer token"
        return (
            "callers from other machines need a bearer token, and this control plane knows none: "
            "start it with --debug-token-file FILE or, in a lab, --debug-insecure"
        )


def make_doors(
    token_file: Path | None, *, insecure: bool = False, others: Sequence[Authenticator] = ()
) -> Doors:
    """Return the doors that the settings ask for; `others` know other tokens, as Kubernetes does.

    Raises UsageError when the token file is not there at the start.
    """
    if token_file is None:
        return Doors(authenticators=tuple(others), insecure=insecure)
    if not token_file.is_file():
        raise UsageError(f"--debug-token-file: there is no file {token_file}")
    return Doors(authenticators=(TokenFile(token_file), *others), insecure=insecure)


def is_loopback(peer: str) -> bool:
    """Whether an address is on the loopback interface, IPv4-mapped IPv6 included."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


def is_own_name(host: str) -> bool:
    """Whether a Host header cannot be a foreign DNS name: an IP address, `localhost`, nothing."""
    name = host.strip().lower()
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif name.count(":") == 1:
        name = name.partition(":")[0]
    if name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


# What an identity of an ordinary namespace may read, of its own proxies (as istiod).
OWN_PROXY_PAGES: Final = frozenset({"config_dump", "edsz"})


def permit(identity: Identity, page: str, proxy_namespace: str | None) -> None:
    """Raise RefusedError 403 unless the identity may read that page (of that proxy)."""
    if identity.privileged:
        return
    if page not in OWN_PROXY_PAGES or proxy_namespace is None:
        raise RefusedError(
            403, f"{identity.name} may read only {', '.join(sorted(OWN_PROXY_PAGES))}"
        )
    if proxy_namespace != identity.namespace:
        raise RefusedError(403, f"{identity.name} may read only the proxies of its own namespace")

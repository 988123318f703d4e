"""Where the API server is and how to prove who we are: a kubeconfig, or the pod's own account.

Must not make requests. The rule that is easy to break: tokens and authorities end. A pod's files
are replaced, a plugin's token has a time; so both are asked for again for each request.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from controlplane.errors import UsageError
from controlplane.kubernetes.errors import UnavailableError

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REFRESH: Final = 60.0  # seconds that a token is used before its file or plugin is asked again


class NoClusterError(UsageError):
    """Nothing says where an API server is."""


class Access(Protocol):
    """An API server and the credentials for it."""

    @property
    def server(self) -> str:
        """The URL of the API server, without a slash at its end."""
        ...

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How to speak TLS with it, asked for each request; None for plain HTTP."""
        ...

    @property
    def server_name(self) -> str | None:
        """The name that its certificate must have, when it is not that of the URL."""
        ...

    @property
    def proxy(self) -> str | None:
        """The URL of an HTTP proxy on the way."""
        ...

    async def authorization(self, *, renew: bool = False) -> str:
        """Return the Authorization header, empty for none; `renew` after it was refused.

        Raises UnavailableError when credentials cannot be had now.
        """
        ...


async def find_access(
    kubeconfig: Path | None = None,
    context: str = "",
    *,
    environ: Mapping[str, str] = os.environ,
    account: Path = _ACCOUNT,
) -> Access:
    """Return the access that flags and environment mean, as kubectl finds it.

    The file that was named, else `$KUBECONFIG`, else `~/.kube/config`, else the account of the
    pod. Raises UsageError when there is none or when it is broken.
    """
    paths = _kubeconfig(kubeconfig, environ)
    if paths:
        return await KubeconfigAccess.load(paths, context)
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return PodAccess(environ, account=account)
    raise NoClusterError(
        "no cluster is known: there is no --kubeconfig, no KUBECONFIG, no ~/.kube/config, and "
        "this is no pod"
    )


def _kubeconfig(named: Path | None, environ: Mapping[str, str]) -> str:
    """Return the files to read, joined as in `$KUBECONFIG`; nothing when there is none."""
    if named is not None:
        if not named.is_file():
            raise UsageError(f"--kubeconfig: there is no file {named}")
        return str(named)
    listed = environ.get("KUBECONFIG", "")
    found = [path for path in listed.split(os.pathsep) if path and os.path.isfile(path)]
    if listed and not found:
        raise UsageError(f"KUBECONFIG: there is no file {listed}")
    if found:
        return os.pathsep.join(found)
    home = environ.get("HOME", "")  # a user without a name may have none
    usual = Path(home) / ".kube" / "config"
    return str(usual) if home and usual.is_file() else ""


class PodAccess:
    """The service account of the pod that we run in. Raises UsageError when it is not there."""

    proxy: Final = None
    server_name: Final = None

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        account: Path = _ACCOUNT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        host = environ.get("KUBERNETES_SERVICE_HOST", "")
        port = environ.get("KUBERNETES_SERVICE_PORT", "") or "443"
        self.server: Final = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._token_file: Final = account / "token"
        self._authorities_file: Final = account / "ca.crt"
        self._clock: Final = clock
        self._read_at = float("-inf")
        self._token = ""
        try:
            self._authorities = self._authorities_file.read_text()
            self._tls = _trusting(self._authorities)
            self._token_file.read_bytes()
        except (OSError, ValueError, ssl.SSLError) as error:
            raise UsageError(
                f"the service account of this pod cannot be read: {account}: {error}"
            ) from None

    @property
    def tls(self) -> ssl.SSLContext:
        """What trusts the cluster's authorities of this moment."""
        return self._tls

    async def authorization(self, *, renew: bool = False) -> str:
        """Return the token of the account, read again every minute, as the authorities are."""
        now = self._clock()
        if renew or now - self._read_at >= _REFRESH:
            try:
                self._token = self._token_file.read_text().strip()
            except OSError as error:
                raise UnavailableError(
                    f"the token {self._token_file} cannot be read: {error.strerror}"
                ) from None
            self._read_authorities()
            self._read_at = now
        return f"Bearer {self._token}" if self._token else ""

    def _read_authorities(self) -> None:
        """Trust the cluster's authorities as the file has them; what cannot be read changes
        nothing, because the old ones may still be good."""
        try:
            found = self._authorities_file.read_text()
            if found != self._authorities:
                # Another context, for another pool of connections: open watches may stay.
                self._tls = _trusting(found)
                self._authorities = found
        except (OSError, ValueError, ssl.SSLError):
            return


def _trusting(authorities: str) -> ssl.SSLContext:
    if not authorities.strip():
        raise ValueError("ca.crt is empty")  # which would mean the authorities of the system
    return ssl.create_default_context(cadata=authorities)


class KubeconfigAccess:
    """What a context of a kubeconfig says, as kubernetes_asyncio reads it.

    The library costs 0.2 s and 40 MB, so it is imported here and only when a file is used.
    """

    def __init__(self, loader: Any, configuration: Any, *, paths: str) -> None:
        self._loader: Final = loader
        self._configuration: Final = configuration
        self._paths: Final = paths
        self._renewed_at = time.monotonic()
        self._certificate: tuple[str | None, str | None] = (None, None)
        self.server: Final[str] = str(configuration.host).rstrip("/")
        self.proxy: Final[str | None] = configuration.proxy or None
        self.server_name: Final[str | None] = configuration.tls_server_name or None
        self.tls: Final = self._context() if self.server.startswith("https:") else None

    @classmethod
    async def load(cls, paths: str, context: str) -> KubeconfigAccess:
        """Return the access of a context, the current one for an empty name.

        `paths` are files joined as in `$KUBECONFIG`. Raises UsageError.
        """
        import yaml
        from kubernetes_asyncio.client import Configuration
        from kubernetes_asyncio.config import ConfigException
        from kubernetes_asyncio.config.kube_config import KubeConfigLoader, KubeConfigMerger

        configuration = Configuration()
        try:
            merged = KubeConfigMerger(paths).config
            if merged is None:
                raise UsageError(f"kubeconfig {paths}: the file is empty")
            loader = KubeConfigLoader(merged, active_context=context or None, config_base_path=None)
            await loader.load_and_set(configuration)
            if not hasattr(loader, "host"):
                raise UsageError(f"kubeconfig {paths}: the cluster has no server")
            if urlsplit(str(configuration.host)).scheme not in ("http", "https"):
                raise UsageError(
                    f"kubeconfig {paths}: the server {configuration.host!r} is no URL of HTTP"
                )
            return cls(loader, configuration, paths=paths)
        except (ConfigException, yaml.YAMLError, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(f"kubeconfig {paths}: {reason}") from None
        except _MALFORMED as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UsageError(
                f"kubeconfig {paths}: it does not have the form of a kubeconfig ({reason})"
            ) from None

    async def authorization(self, *, renew: bool = False) -> str:
        """Return the header; a plugin, a provider or a token file is asked again every minute."""
        now = time.monotonic()
        if renew or now - self._renewed_at >= _REFRESH:
            await self._renew()
            self._renewed_at = now
        return str(self._configuration.api_key.get("BearerToken", ""))

    async def _renew(self) -> None:
        from kubernetes_asyncio.config import ConfigException

        try:
            await self._loader.load_and_set(self._configuration)
            if self.tls is not None:
                self._load_certificate(self.tls)
        except (ConfigException, OSError, *_MALFORMED) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UnavailableError(
                f"kubeconfig {self._paths}: no credentials now: {reason}"
            ) from None

    def _context(self) -> ssl.SSLContext:
        configuration = self._configuration
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        self._load_certificate(context)
        return context

    def _load_certificate(self, context: ssl.SSLContext) -> None:
        """Show the client's certificate from now on, when it is another than before."""
        files = (self._configuration.cert_file, self._configuration.key_file)
        if files[0] and files != self._certificate:
            context.load_cert_chain(files[0], keyfile=files[1])
        self._certificate = files


# What the library lets through for a file that is YAML and no kubeconfig.
_MALFORMED: Final = (AssertionError, AttributeError, KeyError, TypeError, ValueError)


def is_loopback(server: str) -> bool:
    """Whether an API server is on this machine; as in Go, no proxy of the environment applies."""
    host = urlsplit(server).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

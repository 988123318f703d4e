"""Where everything of the example listens, and the files that say so.

Owns: addresses, ports, command lines and bootstraps of the example, derived from a few numbers.
Must not know: processes.
Easy to break: the example files are written for one set of addresses; they are taken to another
by replacing whole addresses and ports in their text, so that their comments and order stay.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from controlplane.agent.bootstrap import Bootstrap, EnvoyAddress, SocketAddress
from controlplane.errors import OutsideError
from controlplane.model.base import Model, freeze
from controlplane.model.proxy import ProxyType

LOOPBACK: Final = "127.0.0.1"
# What the example files say.
FILE_PREFIX: Final = "127.0.0."
FILE_SERVICE_PORT: Final = 9080
FILE_GATEWAY_PORT: Final = 8080
BASE_FILES: Final = ("bookinfo-gateway.yaml", "destination-rule-all.yaml")


class Application(Model):
    """One running copy of a Bookinfo application; `number` is the last part of its address."""

    app: str
    version: str
    number: int
    calls: bool = False

    @property
    def name(self) -> str:
        """For example `reviews-v2`."""
        return f"{self.app}-{self.version}"


APPLICATIONS: Final = (
    Application(app="details", version="v1", number=11),
    Application(app="ratings", version="v1", number=12),
    Application(app="reviews", version="v1", number=13, calls=True),
    Application(app="reviews", version="v2", number=14, calls=True),
    Application(app="reviews", version="v3", number=15, calls=True),
    Application(app="productpage", version="v1", number=16, calls=True),
)


class Layout(Model):
    """The addresses of one running example.

    Applications listen on `PREFIX + number` at `service_port`, the shared sidecar on 127.0.0.1 at
    the same port, the gateway on all addresses at `gateway_port`. The defaults are those of
    `examples/bookinfo/README.md`. `published` is the port of this machine that leads to the
    gateway when the gateway itself is elsewhere.
    """

    gateway_port: int = FILE_GATEWAY_PORT
    service_port: int = FILE_SERVICE_PORT
    prefix: str = FILE_PREFIX
    grpc: SocketAddress = SocketAddress(host=LOOPBACK, port=15010)
    http: SocketAddress = SocketAddress(host=LOOPBACK, port=8081)
    monitoring: SocketAddress = SocketAddress(host=LOOPBACK, port=15014)
    gateway_admin: SocketAddress = SocketAddress(host=LOOPBACK, port=15000)
    sidecar_admin: SocketAddress = SocketAddress(host=LOOPBACK, port=15004)
    published: int = 0

    @property
    def front(self) -> str:
        """The address of the gateway for a browser, without a slash at its end."""
        return f"http://{LOOPBACK}:{self.published or self.gateway_port}"

    @property
    def page(self) -> str:
        """The address of the product page through the gateway."""
        return f"{self.front}/productpage"

    @property
    def sidecar(self) -> SocketAddress:
        """Where applications call the mesh."""
        return SocketAddress(host=LOOPBACK, port=self.service_port)

    def address(self, application: Application) -> SocketAddress:
        """Where one application listens."""
        return SocketAddress(host=f"{self.prefix}{application.number}", port=self.service_port)

    def needed(self) -> tuple[SocketAddress, ...]:
        """Where the applications and the sidecar must be able to listen."""
        return (self.sidecar, *(self.address(application) for application in APPLICATIONS))

    def localized(self, text: str) -> str:
        """The text of an example file with this layout's addresses and ports."""
        ports = {FILE_SERVICE_PORT: self.service_port, FILE_GATEWAY_PORT: self.gateway_port}
        pattern = rf"\b({'|'.join(map(str, ports))})\b"
        text = re.sub(pattern, lambda found: str(ports[int(found[1])]), text)
        return re.sub(rf"{re.escape(FILE_PREFIX)}(\d\d)\b", rf"{self.prefix}\g<1>", text)


def bookinfo_directory() -> Path:
    """`examples/bookinfo` of the checkout that this package runs from; raises OutsideError."""
    found = Path(__file__).resolve().parents[2] / "examples" / "bookinfo"
    if not (found / "apps" / "productpage.py").is_file():
        raise OutsideError(
            f"there is no {found}: the demo runs from a clone of the project, where "
            "`make demo` starts it"
        )
    return found


def serve_command(layout: Layout, *config_dirs: Path) -> list[str]:
    """The command line of the control plane."""
    directories = [word for path in config_dirs for word in ("--config-dir", str(path))]
    return [
        *(sys.executable, "-m", "controlplane", "serve", "--no-kubernetes", *directories),
        *("--grpc-addr", str(layout.grpc)),
        *("--http-addr", str(layout.http)),
        *("--monitoring-addr", str(layout.monitoring)),
        # What the example does not use stays closed.
        *("--secure-grpc-addr", "", "--https-addr", ""),
    ]


def application_command(
    layout: Layout, application: Application, *extra: str, bookinfo: Path
) -> list[str]:
    """The command line of one application; `extra` are flags of its own."""
    address = layout.address(application)
    words = [sys.executable, str(bookinfo / "apps" / f"{application.app}.py")]
    words += ["--host", address.host, "--port", str(address.port)]
    words += ["--instance", application.name, "--version", application.version]
    if application.calls:
        words += ["--mesh-proxy", str(layout.sidecar)]
    return [*words, *extra]


def gateway_bootstrap(
    layout: Layout, *, delta: bool = True, admin: EnvoyAddress | None = None
) -> Bootstrap:
    """The ingress gateway's Envoy, as `examples/bookinfo/local/ingress.yaml` writes it."""
    return Bootstrap(
        proxy_type=ProxyType.ROUTER,
        ip=f"{layout.prefix}10",
        name="istio-ingressgateway.istio-system",
        dns_domain="istio-system.svc.cluster.local",
        cluster="istio-ingressgateway.istio-system",
        metadata=freeze(
            {
                "NAMESPACE": "istio-system",
                "LABELS": {"app": "istio-ingressgateway", "istio": "ingressgateway"},
                "UNPRIVILEGED_POD": "true",
            }
        ),
        xds=layout.grpc,
        admin=admin or layout.gateway_admin,
        delta=delta,
    )


def sidecar_bootstrap(
    layout: Layout, *, delta: bool = True, admin: EnvoyAddress | None = None
) -> Bootstrap:
    """The one Envoy that all applications share, as `local/sidecar.yaml` writes it."""
    return Bootstrap(
        proxy_type=ProxyType.SIDECAR,
        ip=LOOPBACK,
        name="bookinfo.default",
        cluster="bookinfo.default",
        metadata=freeze(
            {"NAMESPACE": "default", "INTERCEPTION_MODE": "NONE", "UNPRIVILEGED_POD": "true"}
        ),
        xds=layout.grpc,
        admin=admin or layout.sidecar_admin,
        delta=delta,
    )


def write_live(layout: Layout, bookinfo: Path, live: Path) -> None:
    """Fill the watched directory: the mesh, the gateway and the subsets. Raises OSError."""
    for folder, names in (
        ("mesh", sorted(path.name for path in (bookinfo / "mesh").glob("*.yaml"))),
        ("networking", BASE_FILES),
    ):
        (live / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            text = (bookinfo / folder / name).read_text()
            (live / folder / name).write_text(layout.localized(text))

"""networking.istio.io Gateway, with every field of the API."""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from controlplane.model.base import Labels, Model
from controlplane.model.matching import JsonObject, Port
from controlplane.model.meta import Object

GATEWAY_PROTOCOLS: Final = (
    "HTTP", "HTTPS", "GRPC", "GRPC-WEB", "HTTP2", "HTTP_PROXY", "MONGO", "TCP", "TLS", "MYSQL",
    "REDIS", "UDP", "HBONE", "DOUBLE-HBONE",
)  # fmt: skip
"""Words for the protocol of a port; their case does not matter, as in Istio."""
TlsVersion = Literal["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"]


class GatewayPort(Model):
    """The port of a server; `number` is a port of the gateway's Service."""

    number: Port
    protocol: str  # one of GATEWAY_PROTOCOLS
    name: str = ""
    target_port: int | None = None


class TLSCertificate(Model):
    """File-mounted certificate and key."""

    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""


class ServerTLSSettings(Model):
    """TLS of a server."""

    https_redirect: bool = False
    mode: Literal[
        "PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"
    ] = "PASSTHROUGH"
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    ca_crl: str = ""
    tls_certificates: tuple[TLSCertificate, ...] = ()
    credential_name: str = ""
    credential_names: tuple[str, ...] = ()
    ca_cert_credential_name: str = ""
    subject_alt_names: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()
    verify_certificate_hash: tuple[str, ...] = ()
    min_protocol_version: TlsVersion = "TLS_AUTO"
    max_protocol_version: TlsVersion = "TLS_AUTO"
    cipher_suites: tuple[str, ...] = ()
    insecure_skip_verify: bool = False


class Server(Model):
    """One port of a gateway and the hosts it answers for."""

    port: GatewayPort
    hosts: tuple[str, ...]
    bind: str = ""
    tls: ServerTLSSettings | None = None
    default_endpoint: str = ""
    name: str = ""


class GatewaySpec(Model):
    """What a Gateway asks for."""

    servers: tuple[Server, ...] = ()
    selector: Labels | None = None


class Gateway(Object):
    """A Gateway: servers opened on the proxies that its selector names."""

    KIND: ClassVar[str] = "Gateway"
    spec: GatewaySpec = GatewaySpec()
    status: JsonObject | None = None

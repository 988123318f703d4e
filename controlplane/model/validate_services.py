"""Values of gateways, services and endpoints that their types allow and that cannot be meant.

Source: Istio's pkg/config/validation (gateway.go, validation.go) and Kubernetes' own rules for
Services and EndpointSlices, as far as a wrong value would reach an Envoy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from controlplane.model.core import Endpoints, EndpointSlice, Pod, ServiceSpec
from controlplane.model.gateway import (
    GATEWAY_PROTOCOLS,
    GatewaySpec,
    Server,
    ServerTLSSettings,
)
from controlplane.model.schema import Finding, Path
from controlplane.model.service_entry import ServiceEntrySpec, WorkloadEntrySpec
from controlplane.model.values import (
    error,
    export_to,
    host,
    is_address_range,
    is_dns_label,
    is_host,
    is_ip,
    labels,
    unique,
    warning,
)

_SECURE: Final = frozenset({"HTTPS", "TLS"})
_PLAIN: Final = frozenset({"HTTP", "HTTP2", "GRPC", "GRPC-WEB", "TCP", "MONGO", "MYSQL", "REDIS"})
_UNIX: Final = "unix://"
# Linux's sun_path holds 108 bytes with the end mark. Envoy refuses a longer one, and with it the
# load assignments of every other cluster in the same response.
_LONGEST_UNIX_PATH: Final = 107


def gateway(spec: GatewaySpec) -> Iterator[Finding]:
    """Yield what is wrong with a Gateway."""
    if not spec.servers:
        yield error(("spec", "servers"), "at least one server is required")
    if not spec.selector:
        yield warning(("spec", "selector"), "is empty: the gateway applies to every proxy")
    else:
        yield from labels(("spec", "selector"), spec.selector.items())
    names = [server.port.name for server in spec.servers]
    for finding in unique(("spec", "servers"), names, "the port name"):
        yield finding._replace(path=(*finding.path, "port", "name"))
    for index, server in enumerate(spec.servers):
        yield from _server(("spec", "servers", index), server)


def _server(path: Path, server: Server) -> Iterator[Finding]:
    if not server.port.name:
        yield error((*path, "port", "name"), "is required")
    if not server.hosts:
        yield error((*path, "hosts"), "at least one host is required")
    for index, name in enumerate(server.hosts):
        yield from _gateway_host((*path, "hosts", index), name)
    if server.bind and not (is_ip(server.bind) or server.bind.startswith((_UNIX, "/", "@"))):
        yield error((*path, "bind"), f"{server.bind!r} is neither an address nor a unix path")
    protocol = server.port.protocol.upper()
    if protocol not in GATEWAY_PROTOCOLS:
        yield error(
            (*path, "port", "protocol"),
            f"{server.port.protocol!r} is not one of {', '.join(GATEWAY_PROTOCOLS)}",
        )
    tls = server.tls
    if tls is None:
        if protocol in _SECURE:
            yield error((*path, "tls"), f"is required with protocol {server.port.protocol}")
        return
    below = (*path, "tls")
    if tls.https_redirect:
        if protocol != "HTTP":
            yield error(
                (*below, "httpsRedirect"),
                f"needs protocol HTTP, not {server.port.protocol}",
            )
    elif protocol in _PLAIN and not _is_only_redirect(tls):
        yield warning(below, f"has no effect with protocol {server.port.protocol}")
    if protocol in _SECURE:
        yield from _server_tls(below, tls)


def _is_only_redirect(tls: ServerTLSSettings) -> bool:
    return tls == ServerTLSSettings(https_redirect=tls.https_redirect)


def _server_tls(path: Path, tls: ServerTLSSettings) -> Iterator[Finding]:
    by_name = bool(tls.credential_name or tls.credential_names)
    if tls.credential_name and tls.credential_names:
        yield error(path, "only one of credentialName and credentialNames may be set")
    match tls.mode:
        case "SIMPLE" | "MUTUAL" | "OPTIONAL_MUTUAL":
            if not by_name and not tls.tls_certificates:
                for field, text in (
                    ("serverCertificate", tls.server_certificate),
                    ("privateKey", tls.private_key),
                ):
                    if not text:
                        yield error((*path, field), f"is required with mode {tls.mode}")
                mutual = tls.mode != "SIMPLE" and not tls.insecure_skip_verify
                if mutual and not (tls.ca_certificates or tls.ca_cert_credential_name):
                    yield error((*path, "caCertificates"), f"is required with mode {tls.mode}")
        case "ISTIO_MUTUAL":
            for field, text in (
                ("serverCertificate", tls.server_certificate),
                ("privateKey", tls.private_key),
                ("caCertificates", tls.ca_certificates),
                ("credentialName", tls.credential_name),
            ):
                if text:
                    yield error((*path, field), "must not be set with mode ISTIO_MUTUAL")
        case "PASSTHROUGH" | "AUTO_PASSTHROUGH":
            if by_name or tls.server_certificate:
                yield warning(path, f"certificates have no effect with mode {tls.mode}")
    versions = ("TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3")
    least, most = tls.min_protocol_version, tls.max_protocol_version
    if "TLS_AUTO" not in (least, most) and versions.index(least) > versions.index(most):
        yield error((*path, "minProtocolVersion"), f"{least} is above maxProtocolVersion {most}")


def _gateway_host(path: Path, text: str) -> Iterator[Finding]:
    namespace, slash, name = text.partition("/")
    if not slash:
        namespace, name = "*", text
    if namespace not in ("*", ".") and not is_dns_label(namespace):
        yield error(path, f"{namespace!r} is neither a namespace nor one of `.` and `*`")
    elif not name:
        yield error(path, "must not be empty")
    else:
        yield from host(path, name)


def service_entry(spec: ServiceEntrySpec) -> Iterator[Finding]:
    """Yield what is wrong with a ServiceEntry."""
    if not spec.hosts:
        yield error(("spec", "hosts"), "at least one host is required")
    for index, name in enumerate(spec.hosts):
        below: Path = ("spec", "hosts", index)
        if name == "*":
            yield error(below, "`*` is no host of a ServiceEntry")
        else:
            yield from host(below, name)
    yield from unique(("spec", "hosts"), spec.hosts, "host")
    for index, address in enumerate(spec.addresses):
        if not is_address_range(address):
            yield error(
                ("spec", "addresses", index), f"{address!r} is neither an address nor a CIDR"
            )
    yield from export_to(("spec", "exportTo"), spec.export_to)
    yield from _service_entry_ports(spec)
    yield from _resolution(spec)
    names = {port.name for port in spec.ports}
    for index, endpoint in enumerate(spec.endpoints):
        path: Path = ("spec", "endpoints", index)
        by_name = spec.resolution in ("DNS", "DNS_ROUND_ROBIN")
        yield from _workload(path, endpoint, names=by_name)
        for name in endpoint.ports or ():
            if name not in names:
                yield error((*path, "ports", name), "is no port of this ServiceEntry")


def _service_entry_ports(spec: ServiceEntrySpec) -> Iterator[Finding]:
    if not spec.ports:
        yield error(("spec", "ports"), "at least one port is required")
    for finding in unique(("spec", "ports"), (port.name for port in spec.ports), "the name"):
        yield finding._replace(path=(*finding.path, "name"))
    numbers = (str(port.number) for port in spec.ports)
    for finding in unique(("spec", "ports"), numbers, "the number"):
        yield finding._replace(path=(*finding.path, "number"))
    for index, port in enumerate(spec.ports):
        if not is_host(port.name):
            yield error(("spec", "ports", index, "name"), f"{port.name!r} is not a port name")


def _resolution(spec: ServiceEntrySpec) -> Iterator[Finding]:
    at: Path = ("spec", "resolution")
    if spec.endpoints and spec.workload_selector is not None:
        yield error(("spec", "endpoints"), "cannot be combined with workloadSelector")
    match spec.resolution:
        case "NONE":
            if spec.endpoints:
                yield error(("spec", "endpoints"), "must be empty with resolution NONE")
        case "STATIC":
            if not spec.endpoints and spec.workload_selector is None:
                yield warning(at, "STATIC without endpoints and workloadSelector reaches nobody")
        case "DNS" | "DNS_ROUND_ROBIN":
            if spec.resolution == "DNS_ROUND_ROBIN" and len(spec.endpoints) > 1:
                yield error(("spec", "endpoints"), "DNS_ROUND_ROBIN takes one endpoint at most")
            for index, name in enumerate(spec.hosts):
                if not spec.endpoints and (name.startswith("*") or not is_host(name)):
                    yield error(
                        ("spec", "hosts", index),
                        f"{name!r} cannot be resolved; give endpoints or another resolution",
                    )
        case "DYNAMIC_DNS":
            if spec.endpoints:
                yield error(("spec", "endpoints"), "must be empty with resolution DYNAMIC_DNS")


def workload_entry(spec: WorkloadEntrySpec) -> Iterator[Finding]:
    """Yield what is wrong with a WorkloadEntry."""
    yield from _workload(("spec",), spec, names=True)


def _workload(path: Path, spec: WorkloadEntrySpec, *, names: bool) -> Iterator[Finding]:
    address = spec.address
    at = (*path, "address")
    if not address:
        if not spec.network:
            yield error(at, "is required")
    elif address.startswith(_UNIX):
        socket = address.removeprefix(_UNIX)
        if not socket.startswith(("/", "@")):
            yield error(at, f"{address!r} is not an absolute path")
        if len(socket.encode()) > _LONGEST_UNIX_PATH:
            yield error(at, f"a unix socket's path may have {_LONGEST_UNIX_PATH} bytes at most")
        if spec.ports:
            yield error((*path, "ports"), "must be empty with a unix address")
    elif not is_ip(address) and not (names and is_host(address)):
        wanted = "an IP address or a host name" if names else "an IP address"
        yield error(at, f"{address!r} is not {wanted}")
    for name, number in (spec.ports or {}).items():
        if not 1 <= number <= 65535:
            yield error((*path, "ports", name), f"{number} is not from 1 to 65535")
    if spec.labels:
        yield from labels((*path, "labels"), spec.labels.items())


def service(spec: ServiceSpec) -> Iterator[Finding]:
    """Yield what is wrong with a Kubernetes Service."""
    if spec.type == "ExternalName":
        yield from host(("spec", "externalName"), spec.external_name, wildcard=False)
    elif not spec.ports and spec.cluster_ip != "None":
        yield error(("spec", "ports"), "at least one port is required")
    for finding in unique(("spec", "ports"), (port.name for port in spec.ports), "the name"):
        yield finding._replace(path=(*finding.path, "name"))
    numbers = (f"{port.port}/{port.protocol}" for port in spec.ports)
    for finding in unique(("spec", "ports"), numbers, "the port"):
        yield finding._replace(path=(*finding.path, "port"))
    for index, port in enumerate(spec.ports):
        path: Path = ("spec", "ports", index)
        if not port.name and len(spec.ports) > 1:
            yield error((*path, "name"), "is required when there are several ports")
        if isinstance(port.target_port, int) and not 1 <= port.target_port <= 65535:
            yield error((*path, "targetPort"), f"{port.target_port} is not from 1 to 65535")
    for field, addresses in (("clusterIP", (spec.cluster_ip,)), ("clusterIPs", spec.cluster_ips)):
        for index, address in enumerate(addresses):
            if address not in ("", "None") and not is_ip(address):
                at = ("spec", field) if field == "clusterIP" else ("spec", field, index)
                yield error(at, f"{address!r} is not an IP address")


def endpoint_slice(item: EndpointSlice) -> Iterator[Finding]:
    """Yield what is wrong with an EndpointSlice."""
    for index, endpoint in enumerate(item.endpoints or ()):
        path: Path = ("endpoints", index, "addresses")
        if not endpoint.addresses:
            yield error(path, "at least one address is required")
        for at, address in enumerate(endpoint.addresses):
            family = ":" in address
            if item.address_type == "FQDN":
                yield from host((*path, at), address, wildcard=False)
            elif not is_ip(address) or family != (item.address_type == "IPv6"):
                yield error((*path, at), f"{address!r} is not an {item.address_type} address")
    for finding in unique(("ports",), (port.name or "" for port in item.ports or ()), "the name"):
        yield finding._replace(path=(*finding.path, "name"))


def endpoints(item: Endpoints) -> Iterator[Finding]:
    """Yield what is wrong with an Endpoints object."""
    for index, subset in enumerate(item.subsets or ()):
        for field, addresses in (
            ("addresses", subset.addresses),
            ("notReadyAddresses", subset.not_ready_addresses),
        ):
            for at, address in enumerate(addresses or ()):
                if not is_ip(address.ip):
                    yield error(
                        ("subsets", index, field, at, "ip"), f"{address.ip!r} is not an IP address"
                    )


def pod(item: Pod) -> Iterator[Finding]:
    """Yield what is wrong with a Pod."""
    if item.status.pod_ip and not is_ip(item.status.pod_ip):
        yield error(("status", "podIP"), f"{item.status.pod_ip!r} is not an IP address")
    for index, entry in enumerate(item.status.pod_ips):
        if not is_ip(entry.ip):
            yield error(("status", "podIPs", index, "ip"), f"{entry.ip!r} is not an IP address")

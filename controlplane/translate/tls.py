"""TLS: Istio's mutual TLS on both sides, and TLS that a DestinationRule asks for.

Owns the TLS contexts and the names of secrets. The rule that is easy to break: a secret is only
ever referred to by SDS when the proxy has an agent that serves it; a bare Envoy would warm for
ever, so it is given file names, and Istio's mutual TLS not at all.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, Final, Literal, assert_never

from controlplane.model.destination_rule import ClientTLSSettings
from controlplane.translate import envoy
from controlplane.translate.resources import Nest, serialise

SDS_CLUSTER: Final = "sds-grpc"
DEFAULT_SECRET: Final = "default"
ROOT_SECRET: Final = "ROOTCA"
TLS_SOCKET: Final = "envoy.transport_sockets.tls"
RAW_SOCKET: Final = "envoy.transport_sockets.raw_buffer"

# Istio's agent answers `file-root:system` from the first bundle that its host has; a bare Envoy
# is told the place of Debian, Ubuntu, Alpine and the distroless images. Where that file is
# missing Envoy rejects the cluster, which is said, rather than trusting everybody.
SYSTEM_ROOTS: Final = "/etc/ssl/certs/ca-certificates.crt"
SYSTEM: Final = "system"

ALPN_IN_MESH: Final = ("istio-peer-exchange", "istio")
ALPN_IN_MESH_H2: Final = ("istio-peer-exchange", "istio", "h2")
_ALPN_INBOUND: Final = {
    "http": ("h2", "http/1.1"),
    "tcp": ("istio-peer-exchange", "h2", "http/1.1"),
}
_INBOUND_CIPHERS: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
)


_Match: Final = envoy.Cluster.TransportSocketMatch


@functools.lru_cache(maxsize=1024)
def sds_secret(name: str) -> Any:
    """Return the SdsSecretConfig of a secret that the proxy's agent serves; do not change it."""
    source = envoy.ConfigSource(initial_fetch_timeout=envoy.duration(0), resource_api_version="V3")
    api = source.api_config_source
    api.api_type = envoy.ApiConfigSource.GRPC
    api.transport_api_version = "V3"
    api.set_node_on_first_message_only = True
    api.grpc_services.add().envoy_grpc.cluster_name = SDS_CLUSTER
    return envoy.SdsSecretConfig(name=name, sds_config=source)


def file_root(path: str) -> str:
    """The secret name of a root certificate file; `system` means the host's own roots."""
    return f"file-root:{path}"


def file_certificate(certificate: str, key: str) -> str:
    """The secret name of a certificate file and its key file."""
    return f"file-cert:{certificate}~{key}"


def tls_socket(context: Any) -> Any:
    """Return the TLS transport socket of an upstream or downstream context."""
    return envoy.TransportSocket(name=TLS_SOCKET, typed_config=envoy.pack(context))


def raw_socket() -> Any:
    """Return the transport socket of plain bytes."""
    return envoy.TransportSocket(name=RAW_SOCKET, typed_config=envoy.pack(envoy.RawBuffer()))


def istio_mutual(*, sni: str, subject_alt_names: Iterable[str], http2: bool) -> Any:
    """Return the UpstreamTlsContext of Istio's mutual TLS, for a proxy with an agent.

    Without subject names every certificate of the mesh's root is taken.
    """
    context = envoy.UpstreamTlsContext(sni=sni)
    common = context.common_tls_context
    _versions(common)
    common.alpn_protocols.extend(ALPN_IN_MESH_H2 if http2 else ALPN_IN_MESH)
    common.tls_certificate_sds_secret_configs.append(sds_secret(DEFAULT_SECRET))
    _validate_by_secret(common, ROOT_SECRET, subject_alt_names)
    return context


def auto_mutual_matches(context: Any) -> tuple[Any, Any]:
    """Return the socket matches of auto mTLS: TLS to endpoints that take it, plain to others."""
    istio = envoy.Cluster.TransportSocketMatch(
        name="tlsMode-istio", transport_socket=tls_socket(context)
    )
    istio.match.update({"tlsMode": "istio"})
    plain = envoy.Cluster.TransportSocketMatch(
        name="tlsMode-disabled", match=envoy.Struct(), transport_socket=raw_socket()
    )
    return istio, plain


def auto_mutual_start(*, sni: str, subject_alt_names: tuple[str, ...], http2: bool) -> bytes:
    """Return the fields of a cluster for auto mTLS up to their common tail.

    Together they are what `auto_mutual_matches` makes of `istio_mutual`.
    """
    own = envoy.UpstreamTlsContext(sni=sni)
    if subject_alt_names:
        validation = own.common_tls_context.combined_validation_context
        _names(validation.default_validation_context, subject_alt_names)
    return _auto_mutual(http2).begin(serialise(own))


def auto_mutual_tail(*, http2: bool) -> bytes:
    """Return the rest of the fields that `auto_mutual_start` begins."""
    return _auto_mutual(http2).tail


@functools.cache
def _auto_mutual(http2: bool) -> Nest:
    istio, plain = auto_mutual_matches(istio_mutual(sni="", subject_alt_names=(), http2=http2))
    socket = istio.transport_socket
    context, kind = socket.typed_config.value, socket.typed_config.type_url
    nest = Nest.of(
        (envoy.AnyMessage.VALUE_FIELD_NUMBER, context),
        (
            envoy.TransportSocket.TYPED_CONFIG_FIELD_NUMBER,
            serialise(envoy.AnyMessage(type_url=kind)),
        ),
        (
            _Match.TRANSPORT_SOCKET_FIELD_NUMBER,
            serialise(envoy.TransportSocket(name=socket.name)),
        ),
        (
            envoy.Cluster.TRANSPORT_SOCKET_MATCHES_FIELD_NUMBER,
            serialise(_Match(name=istio.name, match=istio.match)),
        ),
    )
    # The first that matches is taken, and this one matches everything.
    last = envoy.Cluster(transport_socket_matches=(plain,))
    return nest._replace(tail=nest.tail + serialise(last))


def origination(
    tls: ClientTLSSettings,
    *,
    subject_alt_names: tuple[str, ...],
    http2: bool,
    serves_secrets: bool,
) -> Any:
    """Return the UpstreamTlsContext of mode SIMPLE or MUTUAL.

    Files come by SDS where an agent reads (and rotates) them, else Envoy opens them itself.
    MUTUAL needs certificate and key, which the caller has checked.
    """
    context = envoy.UpstreamTlsContext(sni=tls.sni)
    common = context.common_tls_context
    _versions(common)
    if tls.mode == "MUTUAL":
        certificate, key = tls.client_certificate, tls.private_key
        if serves_secrets:
            common.tls_certificate_sds_secret_configs.append(
                sds_secret(file_certificate(certificate, key))
            )
        else:
            files = common.tls_certificates.add()
            files.certificate_chain.filename = certificate
            files.private_key.filename = key
    if tls.insecure_skip_verify:
        common.validation_context.trust_chain_verification = (
            envoy.CertificateValidationContext.ACCEPT_UNTRUSTED
        )
    elif serves_secrets:
        _validate_by_secret(common, file_root(tls.ca_certificates or SYSTEM), subject_alt_names)
        if tls.ca_crl:
            common.combined_validation_context.default_validation_context.crl.filename = tls.ca_crl
    else:
        roots = tls.ca_certificates
        validation = common.validation_context
        validation.trusted_ca.filename = SYSTEM_ROOTS if roots in ("", SYSTEM) else roots
        _names(validation, subject_alt_names)
        if tls.ca_crl:
            validation.crl.filename = tls.ca_crl
    if http2:
        common.alpn_protocols.append("h2")
    return context


def inbound_tls_context(alpn: Literal["http", "tcp"], trust_domains: Iterable[str]) -> Any:
    """Return the DownstreamTlsContext of an inbound chain that takes Istio's mutual TLS.

    Peers must belong to one of the trust domains (the mesh's own and its aliases). Source:
    Istio's authn package and facts of its inbound chains.
    """
    context = envoy.DownstreamTlsContext(require_client_certificate=envoy.BoolValue(value=True))
    common = context.common_tls_context
    _versions(common)
    common.tls_params.cipher_suites.extend(_INBOUND_CIPHERS)
    common.alpn_protocols.extend(_ALPN_INBOUND[alpn])
    common.tls_certificate_sds_secret_configs.append(sds_secret(DEFAULT_SECRET))
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.CopyFrom(sds_secret(ROOT_SECRET))
    combined.default_validation_context.SetInParent()
    for domain in trust_domains:
        matcher = combined.default_validation_context.match_typed_subject_alt_names.add()
        matcher.san_type = envoy.SubjectAltNameMatcher.URI
        matcher.matcher.prefix = f"spiffe://{domain}/"
    return context


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """The identity that a workload's certificate carries."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"


def proxy_protocol_socket(version: Literal["V1", "V2"], inner: Any | None) -> Any:
    """Return a transport socket that sends the PROXY header and then speaks as `inner`."""
    match version:
        case "V1":
            number = envoy.ProxyProtocolConfig.V1
        case "V2":
            number = envoy.ProxyProtocolConfig.V2
        case _:
            assert_never(version)
    wrapped = envoy.ProxyProtocolUpstreamTransport(
        config=envoy.ProxyProtocolConfig(version=number),
        transport_socket=raw_socket() if inner is None else inner,
    )
    return envoy.TransportSocket(
        name="envoy.transport_sockets.upstream_proxy_protocol", typed_config=envoy.pack(wrapped)
    )


def _versions(common: Any) -> None:
    common.tls_params.tls_minimum_protocol_version = envoy.TlsParameters.TLSv1_2
    common.tls_params.tls_maximum_protocol_version = envoy.TlsParameters.TLSv1_3


def _validate_by_secret(common: Any, secret: str, subject_alt_names: Iterable[str]) -> None:
    combined = common.combined_validation_context
    combined.validation_context_sds_secret_config.CopyFrom(sds_secret(secret))
    combined.default_validation_context.SetInParent()
    _names(combined.default_validation_context, subject_alt_names)


def _names(validation: Any, subject_alt_names: Iterable[str]) -> None:
    for name in subject_alt_names:
        validation.match_subject_alt_names.add().exact = name

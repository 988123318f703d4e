"""The transport sockets of a cluster, and when it is better not sent at all.

Owns the choice between plain text, Istio's mutual TLS and TLS of a DestinationRule. The rule
that is easy to break: who asked for TLS never gets plain text; the cluster is left out instead,
with a diagnostic (a sidecar with a credentialName is Istio's exception).
"""

from __future__ import annotations

from typing import Any

from controlplane.model.destination_rule import ClientTLSSettings
from controlplane.model.diagnostics import Diagnostic, Level
from controlplane.model.names import default_sni
from controlplane.translate import tls
from controlplane.translate.cluster_inputs import Discovery, MutualTls, ServiceClusterInput


def set_sockets(
    cluster: Any, value: ServiceClusterInput, client_tls: ClientTLSSettings | None, *, http2: bool
) -> None:
    """Set the transport socket, or the socket matches, unless they are `automatic`."""
    policy = value.policy
    socket: Any | None = None
    if value.mutual_tls is not MutualTls.NEVER:
        asked = policy.tls
        context = tls.istio_mutual(
            sni=(asked.sni if asked is not None else "")
            or default_sni(value.port.number, value.subset, value.service.host),
            subject_alt_names=(asked.subject_alt_names if asked is not None else ())
            or value.identities,
            http2=http2,
        )
        if value.mutual_tls is MutualTls.AUTO and value.discovery is not Discovery.ORIGINAL_DST:
            cluster.transport_socket_matches.extend(tls.auto_mutual_matches(context))
        else:
            socket = tls.tls_socket(context)
    elif client_tls is not None:
        names = client_tls.subject_alt_names
        if not names and value.service.provider == "External":
            names = value.service.subject_alt_names
        socket = tls.tls_socket(
            tls.origination(
                client_tls,
                subject_alt_names=names,
                http2=http2,
                serves_secrets=value.settings.serves_secrets,
            )
        )
    if policy.proxy_protocol is not None:
        version = policy.proxy_protocol.version
        for found in cluster.transport_socket_matches:
            found.transport_socket.CopyFrom(
                tls.proxy_protocol_socket(version, found.transport_socket)
            )
        if not cluster.transport_socket_matches:
            socket = tls.proxy_protocol_socket(version, socket)
    if socket is not None:
        cluster.transport_socket.CopyFrom(socket)


def is_automatic(value: ServiceClusterInput) -> bool:
    """Whether a cluster has the sockets of auto mTLS and nothing else."""
    return (
        value.mutual_tls is MutualTls.AUTO
        and value.discovery is not Discovery.ORIGINAL_DST
        and value.policy.proxy_protocol is None
    )


def automatic_start(value: ServiceClusterInput, *, http2: bool) -> bytes:
    """Return the sockets of auto mTLS up to the tail that all of them have."""
    return tls.auto_mutual_start(
        sni=default_sni(value.port.number, value.subset, value.service.host),
        subject_alt_names=value.identities,
        http2=http2,
    )


def origination_settings(value: ServiceClusterInput) -> ClientTLSSettings | None:
    """Return the TLS settings by which the proxy itself begins TLS, None when it does not.

    A credential is for gateways; a sidecar speaks plain text then, as in Istio.
    """
    found = value.policy.tls
    if found is None or found.mode not in ("SIMPLE", "MUTUAL") or found.credential_name:
        return None
    return found


def refusal_of(value: ServiceClusterInput) -> Diagnostic | None:
    """Why a cluster is left out rather than sent with less than its user asked for."""
    if value.discovery is Discovery.DYNAMIC_DNS:
        return note(
            value,
            Level.WARNING,
            "UnsupportedResolution",
            f"cluster {value.name} is left out: resolution DYNAMIC_DNS has no effect yet",
        )
    found = value.policy.tls
    if found is None or found.mode not in ("SIMPLE", "MUTUAL"):
        return None
    if found.credential_name:
        if value.settings.sidecar:
            return None
        return note(
            value,
            Level.ERROR,
            "CredentialNotServed",
            f"cluster {value.name} is left out: TLS credentials by credentialName are not "
            "served yet, and plain text is not what was asked for",
        )
    if found.mode == "MUTUAL" and not (found.client_certificate and found.private_key):
        return note(
            value,
            Level.ERROR,
            "MissingCertificate",
            f"cluster {value.name} is left out: TLS mode MUTUAL needs clientCertificate and "
            "privateKey",
        )
    return None


def credential_note(value: ServiceClusterInput) -> tuple[Diagnostic, ...]:
    """Say that a sidecar does not use the credential that a rule names."""
    found = value.policy.tls
    if found is None or not found.credential_name or found.mode not in ("SIMPLE", "MUTUAL"):
        return ()
    return (
        note(
            value,
            Level.WARNING,
            "CredentialIgnored",
            f"cluster {value.name} speaks plain text: sidecars take no credentialName",
        ),
    )


def note(value: ServiceClusterInput, level: Level, code: str, message: str) -> Diagnostic:
    """Return a diagnostic on the object that decides most about the cluster."""
    last = value.origins[-1]
    return Diagnostic(level=level, code=code, message=message, ref=last.ref, field=last.field)

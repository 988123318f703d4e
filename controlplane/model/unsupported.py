"""What is accepted and has no effect yet: a table of field paths by kind.

A field leaves the table in the change that translates it. The rule that is easy to break: a
field that translation does not read must be here, because silence would promise an effect.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final, NamedTuple

import msgspec

from controlplane.model.base import Model
from controlplane.model.destination_rule import DestinationRule
from controlplane.model.diagnostics import Level
from controlplane.model.gateway import Gateway
from controlplane.model.kinds import Untranslated
from controlplane.model.mesh import MeshConfig
from controlplane.model.meta import Object
from controlplane.model.schema import Finding, Path
from controlplane.model.service_entry import ServiceEntry
from controlplane.model.virtual_service import VirtualService

NOT_SUPPORTED: Final = "NotSupported"


class Unsupported(NamedTuple):
    """One row: a path where `[]` stands for every entry of a list.

    With `values`, only these values (in any case) have no effect; with `keys`, only the keys of a
    map that begin so. `because` says what follows where that is more than the field having no
    effect.
    """

    path: str
    values: frozenset[str] = frozenset()
    keys: str = ""
    because: str = "is not supported yet and has no effect"


def _rows(text: str) -> tuple[Unsupported, ...]:
    return tuple(Unsupported(path) for path in text.split())


_SERVER_TLS = (
    "mode serverCertificate privateKey caCertificates caCrl tlsCertificates credentialName "
    "credentialNames caCertCredentialName subjectAltNames verifyCertificateSpki "
    "verifyCertificateHash minProtocolVersion maxProtocolVersion cipherSuites insecureSkipVerify"
)
_POLICIES = ("spec.trafficPolicy", "spec.subsets[].trafficPolicy")
_PORT_POLICIES = tuple(f"{policy}.portLevelSettings[]" for policy in _POLICIES)
_CLAIMS = "@request.auth.claims"

TABLE: Final[Mapping[type[Model], tuple[Unsupported, ...]]] = {
    VirtualService: (
        *_rows(
            "spec.tls spec.tcp spec.http[].delegate spec.http[].fault.delay.exponentialDelay "
            "spec.http[].fault.abort.http2Error"
        ),
        Unsupported("spec.http[].match[].headers", keys=_CLAIMS),
        Unsupported("spec.http[].match[].withoutHeaders", keys=_CLAIMS),
    ),
    DestinationRule: (
        Unsupported(
            "spec.workloadSelector",
            because="is not supported yet: the whole rule is left out, so that it does not apply "
            "to workloads that it does not select",
        ),
        *(Unsupported(f"{policy}.tunnel") for policy in _POLICIES),
        *(
            Unsupported(f"{policy}.{field}")
            for policy in (*_POLICIES, *_PORT_POLICIES)
            for field in (
                "tls.credentialName",
                "loadBalancer.zoneAwareLbSetting",
                "loadBalancer.localityLbSetting.failoverPriority",
                "outlierDetection.consecutiveErrors",
                "outlierDetection.outlierDetectionHttpErrorCodes",
            )
        ),
    ),
    Gateway: (
        Unsupported(
            "spec.servers[].port.protocol",
            values=frozenset(
                "HTTPS HTTP_PROXY MONGO TCP TLS MYSQL REDIS UDP HBONE DOUBLE-HBONE".split()
            ),
        ),
        Unsupported("spec.servers[].defaultEndpoint"),
        *(Unsupported(f"spec.servers[].tls.{field}") for field in _SERVER_TLS.split()),
    ),
    ServiceEntry: (Unsupported("spec.resolution", values=frozenset({"DYNAMIC_DNS"})),),
    MeshConfig: (
        *_rows(
            "hboneIdleTimeout ingressClass ingressService ingressControllerMode ingressSelector "
            "enableEnvoyAccessLogService configSources caCertificates zoneAwareLbSetting "
            "certificates serviceSettings serviceScopeConfigs verifyCertificateAtClient ca "
            "extensionProviders defaultProviders meshMTLS tlsDefaults "
            "localityLbSetting.failoverPriority "
            "serviceEntryVisibility outboundTrafficPolicy.egressProxy outboundTrafficPolicy.tls "
            "defaultConfig.tracing defaultConfig.envoyAccessLogService "
            "defaultConfig.envoyMetricsService defaultConfig.gatewayTopology "
            "defaultConfig.readinessProbe defaultConfig.proxyStatsMatcher defaultConfig.image "
            "defaultConfig.privateKeyProvider defaultConfig.proxyHeaders "
            "defaultConfig.connectionSettings"
        ),
        Unsupported("outboundTrafficPolicy.mode", values=frozenset({"ALLOW_ANY_DYNAMIC_DNS"})),
    ),
}


def unsupported(item: Object | MeshConfig) -> Iterator[Finding]:
    """Yield a warning for everything in an object that is accepted and has no effect yet."""
    if isinstance(item, Untranslated):
        if item.body is not None:  # kinds without a body are read when another object names them
            yield _finding((), f"{item.qualified_kind} is not supported yet and has no effect")
        return
    yield from _walk(item, _tree(type(item)), ())


def _judge(row: Unsupported, path: Path, value: Any) -> Iterator[Finding]:
    if row.keys:
        for key in value:
            if key.startswith(row.keys):
                yield _finding((*path, key), row.because)
    elif not row.values:
        yield _finding(path, row.because)
    elif value.upper() in row.values:
        yield _finding(path, f"{value} {row.because}")


def _finding(path: Path, message: str) -> Finding:
    return Finding(Level.WARNING, NOT_SUPPORTED, path, message)


@cache
def attributes(model: type[Model]) -> Mapping[str, tuple[str, Any]]:
    """Return, by the spelling on the wire, the attribute of each field and its default."""
    return {
        field.encode_name: (field.name, field.default) for field in msgspec.structs.fields(model)
    }


class _Node:
    """The rows that end at a part of a path, and the parts that may follow."""

    __slots__ = ("below", "rows")

    def __init__(self) -> None:
        self.rows: Final[list[Unsupported]] = []
        self.below: Final[dict[str, _Node]] = {}


@cache
def _tree(model: type[Model]) -> _Node:
    """Return the rows of a kind by the parts of their paths, so that each field is read once."""
    root = _Node()
    for row in TABLE.get(model, ()):
        node = root
        for part in row.path.split("."):
            node = node.below.setdefault(part, _Node())
        node.rows.append(row)
    return root


def _walk(value: Model, node: _Node, path: Path) -> Iterator[Finding]:
    """Yield what is found at every place below a value that rows mean and that was set."""
    known = attributes(type(value))
    for part, child in node.below.items():
        name = part.removesuffix("[]")
        attribute, default = known[name]
        found = getattr(value, attribute)
        if found is None or found == default:
            continue
        below = (*path, name)
        for row in child.rows:
            yield from _judge(row, below, found)
        if not child.below:
            continue
        if part.endswith("[]"):
            for index, entry in enumerate(found):
                yield from _walk(entry, child, (*below, index))
        else:
            yield from _walk(found, child, below)

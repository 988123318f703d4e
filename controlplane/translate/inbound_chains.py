"""Which connections a chain of virtualInbound takes, by mutual TLS mode and protocol.

Owns Istio's table of inbound matches (core/filterchain_options.go) and which ports need which
inspector. Must not know filters. The rule that is easy to break: the order of the rows is
visible on the wire, and all rows of a port share one chain name.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final, NamedTuple

from controlplane.model.services import Protocol


class MutualTls(enum.StrEnum):
    """Whether a workload takes mutual TLS. Until PeerAuthentication: both, or none of it."""

    PERMISSIVE = "PERMISSIVE"
    DISABLE = "DISABLE"


class Speaks(enum.Enum):
    """What a service port speaks, as far as inbound chains care."""

    HTTP = "HTTP"
    TCP = "TCP"
    DETECTED = "detected"


class ChainMatch(NamedTuple):
    """One row: transport, ALPN, what follows, and whether the proxy ends the TLS."""

    transport: str
    alpn: tuple[str, ...]
    http: bool
    terminates_tls: bool = False


PLAINTEXT_HTTP: Final = ("http/1.1", "h2c")
MUTUAL_HTTP: Final = ("istio-http/1.0", "istio-http/1.1", "istio-h2")
MUTUAL_TCP: Final = ("istio-peer-exchange", "istio")
MUTUAL_ANY: Final = ("istio", "istio-peer-exchange", *MUTUAL_HTTP)

_TLS: Final = "tls"
_RAW: Final = "raw_buffer"

_MATCHES: Final = {
    (MutualTls.PERMISSIVE, Speaks.DETECTED): (
        ChainMatch(_TLS, MUTUAL_HTTP, http=True, terminates_tls=True),
        ChainMatch(_RAW, PLAINTEXT_HTTP, http=True),
        ChainMatch(_TLS, MUTUAL_TCP, http=False, terminates_tls=True),
        ChainMatch(_RAW, (), http=False),
        ChainMatch(_TLS, (), http=False),
    ),
    (MutualTls.PERMISSIVE, Speaks.HTTP): (
        ChainMatch(_TLS, MUTUAL_ANY, http=True, terminates_tls=True),
        ChainMatch(_RAW, (), http=True),
    ),
    (MutualTls.PERMISSIVE, Speaks.TCP): (
        ChainMatch(_TLS, MUTUAL_ANY, http=False, terminates_tls=True),
        ChainMatch(_TLS, (), http=False),
        ChainMatch(_RAW, (), http=False),
    ),
    (MutualTls.DISABLE, Speaks.DETECTED): (
        ChainMatch(_RAW, PLAINTEXT_HTTP, http=True),
        ChainMatch(_RAW, (), http=False),
    ),
    (MutualTls.DISABLE, Speaks.HTTP): (ChainMatch(_RAW, (), http=True),),
    (MutualTls.DISABLE, Speaks.TCP): (ChainMatch(_RAW, (), http=False),),
}


def speaks(protocol: Protocol) -> Speaks:
    """Return the class of a protocol; application TLS (HTTPS, TLS) is TCP to the proxy."""
    if protocol.is_http:
        return Speaks.HTTP
    return Speaks.TCP if protocol.is_tcp else Speaks.DETECTED


def chain_matches(mode: MutualTls, protocol: Protocol) -> tuple[ChainMatch, ...]:
    """Return the rows of one port, in order."""
    return _MATCHES[mode, speaks(protocol)]


class Inspection(NamedTuple):
    """Where an inspector runs: nowhere, or everywhere but on the ports of a predicate.

    `ports` are those it leaves alone, or with `only` the sole ones that it inspects.
    """

    needed: bool
    ports: tuple[int, ...] = ()
    only: bool = False


def tls_inspection(matches: Iterable[tuple[int, ChainMatch]]) -> Inspection:
    """Return where TLS must be looked for; port 0 stands for every port without chains.

    Source: Istio's buildTLSInspector. When the passthrough chains need no TLS inspector, the
    ports that do are named instead.
    """
    needs = _needs((port, match.transport == _TLS) for port, match in matches)
    if needs.get(0, False):
        return _inspection(needs)
    ports = tuple(sorted(port for port, needed in needs.items() if needed))
    return Inspection(needed=bool(ports), ports=ports, only=True)


def http_inspection(matches: Iterable[tuple[int, ChainMatch]]) -> Inspection:
    """Return where HTTP must be looked for (source: Istio's buildHTTPInspector)."""
    return _inspection(_needs((port, match.alpn == PLAINTEXT_HTTP) for port, match in matches))


def _needs(found: Iterable[tuple[int, bool]]) -> dict[int, bool]:
    needs: dict[int, bool] = {}
    for port, needed in found:
        needs[port] = needs.get(port, False) or needed
    return needs


def _inspection(needs: dict[int, bool]) -> Inspection:
    if not any(needs.values()):
        return Inspection(needed=False)
    return Inspection(
        needed=True, ports=tuple(sorted(port for port, needed in needs.items() if not needed))
    )

"""Envoy's messages: the only module that imports their generated classes (rule 6).

Owns names for the classes and three helpers to make and pack them. Add a class here when a
translation needs it; never import a `_pb2` module elsewhere in this package.
"""

# The generated modules resolve their classes at run time, so nothing here can be re-exported
# lazily; importing them all costs 35 ms.
from __future__ import annotations

from typing import Any

from envoy.config.accesslog.v3.accesslog_pb2 import AccessLog
from envoy.config.cluster.v3.cluster_pb2 import Cluster
from envoy.config.cluster.v3.filter_pb2 import Filter as ClusterFilter
from envoy.config.cluster.v3.outlier_detection_pb2 import OutlierDetection
from envoy.config.core.v3.address_pb2 import Address, CidrRange, Pipe, SocketAddress, TcpKeepalive
from envoy.config.core.v3.base_pb2 import (
    ControlPlane,
    DataSource,
    HeaderValue,
    HeaderValueOption,
    Locality,
    Metadata,
    Node,
    RuntimeFractionalPercent,
    TransportSocket,
)
from envoy.config.core.v3.config_source_pb2 import (
    AggregatedConfigSource,
    ApiConfigSource,
    ConfigSource,
)
from envoy.config.core.v3.extension_pb2 import TypedExtensionConfig
from envoy.config.core.v3.protocol_pb2 import HttpProtocolOptions
from envoy.config.core.v3.proxy_protocol_pb2 import ProxyProtocolConfig
from envoy.config.core.v3.substitution_format_string_pb2 import (
    JsonFormatOptions,
    SubstitutionFormatString,
)
from envoy.config.endpoint.v3.endpoint_components_pb2 import (
    Endpoint,
    LbEndpoint,
    LocalityLbEndpoints,
)
from envoy.config.endpoint.v3.endpoint_pb2 import ClusterLoadAssignment
from envoy.config.listener.v3.listener_components_pb2 import (
    Filter,
    FilterChain,
    FilterChainMatch,
    ListenerFilter,
    ListenerFilterChainMatchPredicate,
)
from envoy.config.listener.v3.listener_pb2 import Listener
from envoy.config.route.v3.route_components_pb2 import (
    Decorator,
    HeaderMatcher,
    QueryParameterMatcher,
    RedirectAction,
    RetryPolicy,
    Route,
    RouteAction,
    RouteMatch,
    VirtualHost,
)
from envoy.config.route.v3.route_pb2 import RouteConfiguration
from envoy.extensions.access_loggers.file.v3.file_pb2 import FileAccessLog
from envoy.extensions.filters.common.fault.v3.fault_pb2 import FaultDelay
from envoy.extensions.filters.http.cors.v3.cors_pb2 import Cors, CorsPolicy
from envoy.extensions.filters.http.fault.v3.fault_pb2 import FaultAbort, HTTPFault
from envoy.extensions.filters.http.grpc_stats.v3.config_pb2 import FilterConfig as GrpcStats
from envoy.extensions.filters.http.grpc_web.v3.grpc_web_pb2 import GrpcWeb
from envoy.extensions.filters.http.router.v3.router_pb2 import Router
from envoy.extensions.filters.listener.http_inspector.v3.http_inspector_pb2 import HttpInspector
from envoy.extensions.filters.listener.original_dst.v3.original_dst_pb2 import OriginalDst
from envoy.extensions.filters.listener.original_src.v3.original_src_pb2 import OriginalSrc
from envoy.extensions.filters.listener.tls_inspector.v3.tls_inspector_pb2 import TlsInspector
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    HttpConnectionManager,
    HttpFilter,
    Rds,
)
from envoy.extensions.filters.network.tcp_proxy.v3.tcp_proxy_pb2 import TcpProxy
from envoy.extensions.formatter.req_without_query.v3.req_without_query_pb2 import ReqWithoutQuery
from envoy.extensions.network.dns_resolver.cares.v3.cares_dns_resolver_pb2 import (
    CaresDnsResolverConfig,
)
from envoy.extensions.request_id.uuid.v3.uuid_pb2 import UuidRequestIdConfig
from envoy.extensions.retry.host.previous_hosts.v3.previous_hosts_pb2 import PreviousHostsPredicate
from envoy.extensions.retry.priority.previous_priorities.v3.previous_priorities_config_pb2 import (
    PreviousPrioritiesConfig,
)
from envoy.extensions.transport_sockets.proxy_protocol.v3.upstream_proxy_protocol_pb2 import (
    ProxyProtocolUpstreamTransport,
)
from envoy.extensions.transport_sockets.raw_buffer.v3.raw_buffer_pb2 import RawBuffer
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
    TlsParameters,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import SdsSecretConfig
from envoy.extensions.transport_sockets.tls.v3.tls_pb2 import (
    DownstreamTlsContext,
    UpstreamTlsContext,
)
from envoy.extensions.upstreams.http.v3.http_protocol_options_pb2 import (
    HttpProtocolOptions as UpstreamHttpOptions,
)
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy.type.matcher.v3.regex_pb2 import RegexMatcher
from envoy.type.matcher.v3.string_pb2 import StringMatcher
from envoy.type.v3.percent_pb2 import FractionalPercent, Percent
from envoy.type.v3.range_pb2 import Int32Range
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration as DurationMessage
from google.protobuf.struct_pb2 import Struct
from google.protobuf.wrappers_pb2 import BoolValue, UInt32Value, UInt64Value
from udpa.type.v1.typed_struct_pb2 import TypedStruct

from controlplane.model.base import Duration
from controlplane.protos.name_table_pb2 import NameTable

TYPE_URL_PREFIX = "type.googleapis.com/"


def pack(message: Any) -> Any:
    """Return an Any with the message's deterministic bytes."""
    return AnyMessage(
        type_url=TYPE_URL_PREFIX + message.DESCRIPTOR.full_name,
        value=message.SerializeToString(deterministic=True),
    )


def duration(value: Duration | int) -> Any:
    """Return google.protobuf.Duration of a length in nanoseconds."""
    seconds, nanos = divmod(int(value), 1_000_000_000)
    return DurationMessage(seconds=seconds, nanos=nanos)


def socket_address(address: str, port: int) -> Any:
    """Return an Address of IP (or host name) and TCP port."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))


def ads_source() -> Any:
    """Return the ConfigSource that every EDS cluster and RDS listener asks: ADS, no timeout."""
    return ConfigSource(
        ads=AggregatedConfigSource(),
        initial_fetch_timeout=DurationMessage(),
        resource_api_version="V3",
    )


def istio_config_metadata(path: str) -> Any:
    """Return metadata whose `istio.config` names the object that made a route or chain."""
    metadata = Metadata()
    metadata.filter_metadata["istio"].update({"config": path})
    return metadata

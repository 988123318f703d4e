"""The names that injection shares with Istio: annotations, labels, containers, ports.

Owns spelling only. The rule that is easy to break: a name here is part of an interface with
pods that already run, so none may change.
"""

from __future__ import annotations

from typing import Final

PROXY: Final = "istio-proxy"
INIT: Final = "istio-init"

INJECT: Final = "sidecar.istio.io/inject"
"""Label and annotation: whether this pod wants a sidecar."""
STATUS: Final = "sidecar.istio.io/status"
NATIVE_SIDECAR: Final = "sidecar.istio.io/nativeSidecar"
REWRITE_PROBES: Final = "sidecar.istio.io/rewriteAppHTTPProbers"
INTERCEPTION_MODE: Final = "sidecar.istio.io/interceptionMode"
PROXY_CPU: Final = "sidecar.istio.io/proxyCPU"
PROXY_CPU_LIMIT: Final = "sidecar.istio.io/proxyCPULimit"
PROXY_MEMORY: Final = "sidecar.istio.io/proxyMemory"
PROXY_MEMORY_LIMIT: Final = "sidecar.istio.io/proxyMemoryLimit"
PROXY_IMAGE: Final = "sidecar.istio.io/proxyImage"
PROXY_IMAGE_TYPE: Final = "sidecar.istio.io/proxyImageType"
LOG_LEVEL: Final = "sidecar.istio.io/logLevel"
COMPONENT_LOG_LEVEL: Final = "sidecar.istio.io/componentLogLevel"
AGENT_LOG_LEVEL: Final = "sidecar.istio.io/agentLogLevel"
BOOTSTRAP_OVERRIDE: Final = "sidecar.istio.io/bootstrapOverride"
USER_VOLUME: Final = "sidecar.istio.io/userVolume"
USER_VOLUME_MOUNT: Final = "sidecar.istio.io/userVolumeMount"
CAP_NET_BIND_SERVICE: Final = "sidecar.istio.io/capNetBindService"

INCLUDE_INBOUND_PORTS: Final = "traffic.sidecar.istio.io/includeInboundPorts"
EXCLUDE_INBOUND_PORTS: Final = "traffic.sidecar.istio.io/excludeInboundPorts"
INCLUDE_OUTBOUND_PORTS: Final = "traffic.sidecar.istio.io/includeOutboundPorts"
EXCLUDE_OUTBOUND_PORTS: Final = "traffic.sidecar.istio.io/excludeOutboundPorts"
INCLUDE_OUTBOUND_RANGES: Final = "traffic.sidecar.istio.io/includeOutboundIPRanges"
EXCLUDE_OUTBOUND_RANGES: Final = "traffic.sidecar.istio.io/excludeOutboundIPRanges"
EXCLUDE_INTERFACES: Final = "traffic.sidecar.istio.io/excludeInterfaces"
KUBEVIRT_INTERFACES: Final = "traffic.sidecar.istio.io/kubevirtInterfaces"

STATUS_PORT: Final = "status.sidecar.istio.io/port"
READINESS_INITIAL_DELAY: Final = "readiness.status.sidecar.istio.io/initialDelaySeconds"
READINESS_PERIOD: Final = "readiness.status.sidecar.istio.io/periodSeconds"
READINESS_FAILURE_THRESHOLD: Final = "readiness.status.sidecar.istio.io/failureThreshold"

PROXY_CONFIG: Final = "proxy.istio.io/config"
OVERRIDES: Final = "proxy.istio.io/overrides"
TEMPLATES: Final = "inject.istio.io/templates"
MERGE_METRICS: Final = "prometheus.istio.io/merge-metrics"

INJECTION: Final = "istio-injection"
"""Label of a namespace: enabled or disabled, for the default revision."""
REVISION: Final = "istio.io/rev"
"""Label of a namespace or a pod: which control plane."""
DEFAULT_REVISION: Final = "default"
NETWORK: Final = "topology.istio.io/network"

IGNORED_NAMESPACES: Final = frozenset(
    {"kube-system", "kube-public", "kube-node-lease", "local-path-storage"}
)

OBSOLETE_ANNOTATIONS: Final = {
    "sidecar.istio.io/controlPlaneAuthPolicy": "use that field in proxy.istio.io/config",
    "sidecar.istio.io/discoveryAddress": "use that field in proxy.istio.io/config",
    "sidecar.istio.io/enableCoreDump": "it is a matter of the node",
    "readiness.status.sidecar.istio.io/applicationPorts": "the application's own probe counts",
}
"""Annotations of older releases without an effect, and what there is instead."""

KNOWN_ANNOTATIONS: Final = frozenset(
    {
        *(value for value in dict(globals()).values() if isinstance(value, str) and "/" in value),
        # Read by others than the injector: the agent, the control plane, operators.
        "sidecar.istio.io/extraStatTags",
        "sidecar.istio.io/init-containers-before-proxy",
        "sidecar.istio.io/statsCompression",
        "sidecar.istio.io/statsEvictionInterval",
        "sidecar.istio.io/statsFlushInterval",
        "sidecar.istio.io/statsHistogramBuckets",
        "sidecar.istio.io/statsInclusionPrefixes",
        "sidecar.istio.io/statsInclusionRegexps",
        "sidecar.istio.io/statsInclusionSuffixes",
    }
)

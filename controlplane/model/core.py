"""Kubernetes core kinds, with only the fields that the mesh reads.

`IGNORED` lists the legal fields that are not read, so that a misspelt field can still be told
from an unused one (Kubernetes API reference, v1.34).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from controlplane.model.base import Labels, Model
from controlplane.model.meta import Object

Port = Annotated[int, Meta(ge=1, le=65535)]


class Namespace(Object):
    """A namespace; its labels decide on injection and discovery."""

    KIND: ClassVar[str] = "Namespace"
    IGNORED: ClassVar[frozenset[str]] = frozenset({"spec", "status"})


class Node(Object):
    """A node; its topology labels give endpoints their locality."""

    KIND: ClassVar[str] = "Node"
    IGNORED: ClassVar[frozenset[str]] = frozenset({"spec", "status"})


class ContainerPort(Model):
    """A port that a container declares; named target ports resolve through it."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"hostIP", "hostPort"})
    container_port: Port
    name: str = ""
    protocol: str = "TCP"


class Container(Model):
    """A container, as far as its ports."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        "image command args workingDir envFrom env resources resizePolicy restartPolicy "
        "restartPolicyRules volumeMounts volumeDevices livenessProbe readinessProbe startupProbe "
        "lifecycle terminationMessagePath terminationMessagePolicy imagePullPolicy "
        "securityContext stdin stdinOnce tty".split()
    )
    name: str = ""
    ports: tuple[ContainerPort, ...] = ()


class PodSpec(Model):
    """What a pod was asked to be, as far as the mesh cares."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        "volumes initContainers ephemeralContainers restartPolicy terminationGracePeriodSeconds "
        "activeDeadlineSeconds dnsPolicy nodeSelector serviceAccount automountServiceAccountToken "
        "hostPID hostIPC shareProcessNamespace securityContext imagePullSecrets "
        "affinity schedulerName tolerations hostAliases priorityClassName priority dnsConfig "
        "readinessGates runtimeClassName enableServiceLinks preemptionPolicy overhead "
        "topologySpreadConstraints setHostnameAsFQDN os hostUsers schedulingGates resourceClaims "
        "resources hostnameOverride".split()
    )
    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    hostname: str = ""  # with `subdomain`: a DNS name of the pod in a headless service
    subdomain: str = ""
    containers: tuple[Container, ...] = ()


class PodIP(Model):
    """One address of a pod."""

    ip: str


class PodCondition(Model):
    """One condition of a pod; only `Ready` is read."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {"lastProbeTime", "lastTransitionTime", "reason", "message", "observedGeneration"}
    )
    type: str
    status: str


class PodStatus(Model):
    """What a pod is: phase, addresses, readiness."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        "observedGeneration message reason nominatedNodeName hostIP hostIPs startTime "
        "initContainerStatuses containerStatuses qosClass ephemeralContainerStatuses resize "
        "resourceClaimStatuses".split()
    )
    phase: str = ""
    pod_ip: str = field(default="", name="podIP")
    pod_ips: tuple[PodIP, ...] = field(default=(), name="podIPs")
    conditions: tuple[PodCondition, ...] = ()


class Pod(Object):
    """A pod: labels, addresses, service account, node."""

    KIND: ClassVar[str] = "Pod"
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class KubernetesServicePort(Model):
    """A port of a Service."""

    port: Port
    name: str = ""
    protocol: Literal["TCP", "UDP", "SCTP"] = "TCP"
    app_protocol: str | None = None
    target_port: int | str | None = None
    node_port: int | None = None


class ServiceSpec(Model, cache_hash=False):
    """What the mesh reads of a Service's specification."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        "sessionAffinity sessionAffinityConfig externalTrafficPolicy healthCheckNodePort "
        "allocateLoadBalancerNodePorts loadBalancerClass loadBalancerIP loadBalancerSourceRanges "
        "ipFamilies ipFamilyPolicy".split()
    )
    type: Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"] = "ClusterIP"
    cluster_ip: str = field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = field(default=(), name="clusterIPs")
    external_ips: tuple[str, ...] = field(default=(), name="externalIPs")
    external_name: str = ""
    ports: tuple[KubernetesServicePort, ...] = ()
    selector: Labels | None = None
    publish_not_ready_addresses: bool = False
    internal_traffic_policy: str | None = None
    traffic_distribution: str | None = None


class KubernetesService(Object, cache_hash=False):
    """A Kubernetes Service; the mesh's own idea of a service is `services.Service`."""

    KIND: ClassVar[str] = "Service"
    IGNORED: ClassVar[frozenset[str]] = frozenset({"status"})
    spec: ServiceSpec = ServiceSpec()


class TargetRef(Model):
    """The object behind an endpoint, usually a Pod."""

    IGNORED: ClassVar[frozenset[str]] = frozenset(
        {"apiVersion", "fieldPath", "resourceVersion", "uid"}
    )
    kind: str = ""
    name: str = ""
    namespace: str = ""


class EndpointPort(Model):
    """A port of an EndpointSlice or of an Endpoints subset; an absent port means all ports."""

    name: str | None = None
    port: Port | None = None
    protocol: str | None = None
    app_protocol: str | None = None


class EndpointConditions(Model):
    """Readiness of one endpoint; unset means true for `ready`, its value for `serving`."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class SliceEndpoint(Model):
    """One endpoint of an EndpointSlice."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"hints", "hostname", "deprecatedTopology"})
    addresses: tuple[str, ...]
    conditions: EndpointConditions = EndpointConditions()
    target_ref: TargetRef | None = None
    node_name: str | None = None
    zone: str | None = None


class EndpointSlice(Object):
    """discovery.k8s.io EndpointSlice; its label kubernetes.io/service-name names the Service."""

    KIND: ClassVar[str] = "EndpointSlice"
    address_type: Literal["IPv4", "IPv6", "FQDN"] = "IPv4"
    endpoints: Sequence[SliceEndpoint] | None = ()  # kept as `PackedEndpoints`
    ports: tuple[EndpointPort, ...] | None = ()


class EndpointAddress(Model):
    """One address of an Endpoints subset."""

    IGNORED: ClassVar[frozenset[str]] = frozenset({"hostname"})
    ip: str
    node_name: str | None = None
    target_ref: TargetRef | None = None


class EndpointSubset(Model):
    """Addresses that share ports."""

    addresses: tuple[EndpointAddress, ...] | None = ()
    not_ready_addresses: tuple[EndpointAddress, ...] | None = ()
    ports: tuple[EndpointPort, ...] | None = ()


class Endpoints(Object):
    """The older core Endpoints kind: same name as its Service."""

    KIND: ClassVar[str] = "Endpoints"
    subsets: tuple[EndpointSubset, ...] | None = ()

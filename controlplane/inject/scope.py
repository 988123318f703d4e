"""What a template can look up about one pod.

Owns the choice between annotation, value and mesh setting for everything that the sidecar needs.
Must not know the template. The rule that is easy to break: an annotation wins over a value, also
when it is empty, because `includeOutboundIPRanges: ""` means that nothing is captured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controlplane import __version__
from controlplane.inject import names
from controlplane.inject.annotations import is_true, json_map, to_plain
from controlplane.inject.owner import Owner
from controlplane.model.mesh import MeshConfig, ProxyConfig

PROXY_UID: Final = 1337
PROMETHEUS_PORT: Final = 15090
HEALTH_PORT: Final = 15021
_IMAGE_TYPES: Final = ("-distroless", "-debug")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is known about a pod before its template is filled in."""

    pod: Mapping[str, Any]
    owner: Owner
    mesh: MeshConfig
    proxy_config: ProxyConfig
    values: Mapping[str, Any]
    revision: str
    environment: Mapping[str, str]

    @property
    def annotations(self) -> Mapping[str, str]:
        """The annotations of the pod."""
        found: Mapping[str, str] = (self.pod.get("metadata") or {}).get("annotations") or {}
        return found

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the pod."""
        found: Mapping[str, str] = (self.pod.get("metadata") or {}).get("labels") or {}
        return found

    @property
    def status_port(self) -> int:
        """The port of the agent, which takes over probes and metrics; 0 switches it off."""
        said = self.annotations.get(names.STATUS_PORT)
        return self.proxy_config.status_port if said is None else int(said)

    @property
    def mode(self) -> str:
        """REDIRECT, TPROXY or NONE."""
        return self.annotations.get(names.INTERCEPTION_MODE, self.proxy_config.interception_mode)

    @property
    def native(self) -> bool:
        """Whether the proxy becomes an init container that keeps running."""
        default = self.values["global"]["proxy"]["nativeSidecar"]
        return is_true(self.annotations, names.NATIVE_SIDECAR, default=default)

    @property
    def hold(self) -> bool:
        """Whether the application waits for the proxy."""
        return bool(
            self.proxy_config.hold_application_until_proxy_starts
            or self.values["global"]["proxy"]["holdApplicationUntilProxyStarts"]
        )

    @property
    def network(self) -> str:
        """The network of the pod: its label, then the webhook's path, then the values."""
        network: str = self.values["global"]["network"]
        return self.labels.get(names.NETWORK, self.environment.get("ISTIO_META_NETWORK", network))


def scope(facts: Facts) -> dict[str, Any]:
    """Return the names that a template can look up; `template.yaml` lists them."""
    return {
        "values": facts.values,
        "labels": facts.labels,
        "annotations": facts.annotations,
        "pod": facts.pod.get("spec") or {},
        "owner": _owner(facts),
        "mesh": {
            "trustDomain": facts.mesh.trust_domain,
            "listenPort": str(facts.mesh.proxy_listen_port),
            "inboundPort": str(facts.mesh.proxy_inbound_listen_port),
        },
        "proxy": _proxy(facts),
        "capture": _capture(facts),
        "app": _app(facts),
        "user": {
            "volumes": _named(facts.annotations.get(names.USER_VOLUME)),
            "mounts": _named(facts.annotations.get(names.USER_VOLUME_MOUNT)),
        },
    }


def _owner(facts: Facts) -> dict[str, Any]:
    owner = facts.owner
    return {
        "name": owner.name,
        "kind": owner.kind,
        "apiVersion": owner.api_version,
        "namespace": owner.namespace,
        "reference": owner.reference,
    }


def _proxy(facts: Facts) -> dict[str, Any]:
    values = facts.values["global"]
    proxy = values["proxy"]
    annotations = facts.annotations
    net_bind = is_true(annotations, names.CAP_NET_BIND_SERVICE, default=proxy["capNetBindService"])
    as_root = facts.mode == "TPROXY" or net_bind
    certified = values["workloadCertificates"] != "none"
    image = _image(facts)
    config = to_plain(facts.proxy_config)
    if facts.status_port != ProxyConfig().status_port:
        config["statusPort"] = facts.status_port
    return {
        "image": image,
        "initImage": image,
        "uid": str(PROXY_UID),
        "gid": PROXY_UID,
        # TPROXY sockets need CAP_NET_ADMIN, which only root keeps over exec.
        "runAsUser": 0 if as_root else PROXY_UID,
        "runAsNonRoot": not as_root,
        "capNetBindService": net_bind,
        "native": facts.native,
        "hold": facts.hold,
        "statusPort": facts.status_port,
        "readiness": {
            field: int(annotations.get(name, proxy[value]))
            for field, name, value in (
                (
                    "initialDelaySeconds",
                    names.READINESS_INITIAL_DELAY,
                    "readinessInitialDelaySeconds",
                ),
                ("periodSeconds", names.READINESS_PERIOD, "readinessPeriodSeconds"),
                (
                    "failureThreshold",
                    names.READINESS_FAILURE_THRESHOLD,
                    "readinessFailureThreshold",
                ),
            )
        },
        "resources": _resources(annotations) or proxy["resources"],
        "config": msgspec.json.encode(config).decode(),
        "metadata": [
            {"name": name, "value": value}
            for name, value in sorted((facts.proxy_config.proxy_metadata or {}).items())
        ],
        "cluster": facts.environment.get(
            "ISTIO_META_CLUSTER_ID", values["multiCluster"]["clusterName"]
        ),
        "network": facts.network,
        "meshId": facts.proxy_config.mesh_id or values["meshID"] or facts.mesh.trust_domain,
        "revision": facts.revision,
        "certified": certified,
        "tlsMode": "istio" if certified else "disabled",
        "caAddress": values["caAddress"] or facts.proxy_config.discovery_address,
    }


def _image(facts: Facts) -> str:
    values = facts.values["global"]
    image: str = facts.annotations.get(names.PROXY_IMAGE, values["proxy"]["image"])
    if "/" in image:
        return image
    tag: str = values["tag"] or __version__
    chosen: Mapping[str, Any] = facts.proxy_config.image or {}
    configured = chosen.get("imageType", "")
    kind = facts.annotations.get(names.PROXY_IMAGE_TYPE, configured)
    if kind:
        for suffix in _IMAGE_TYPES:
            tag = tag.removesuffix(suffix)
        if kind != "default":
            tag = f"{tag}-{kind}"
    return f"{values['hub']}/{image}:{tag}"


def _resources(annotations: Mapping[str, str]) -> dict[str, Any]:
    """Requests and limits by annotation; one annotation replaces all of the values."""
    found: dict[str, Any] = {}
    for group, resource, name in (
        ("requests", "cpu", names.PROXY_CPU),
        ("requests", "memory", names.PROXY_MEMORY),
        ("limits", "cpu", names.PROXY_CPU_LIMIT),
        ("limits", "memory", names.PROXY_MEMORY_LIMIT),
    ):
        if name in annotations:
            found.setdefault(group, {})[resource] = annotations[name]
    return found


def _capture(facts: Facts) -> dict[str, Any]:
    proxy = facts.values["global"]["proxy"]
    said = facts.annotations.get
    own = [str(PROMETHEUS_PORT), str(HEALTH_PORT)]
    if facts.status_port:
        own.append(str(facts.status_port))
    excluded = said(names.EXCLUDE_INBOUND_PORTS, proxy["excludeInboundPorts"])
    others = [port.strip() for port in excluded.split(",") if port.strip()]
    return {
        "mode": facts.mode,
        "includeRanges": said(names.INCLUDE_OUTBOUND_RANGES, proxy["includeIPRanges"]),
        "excludeRanges": said(names.EXCLUDE_OUTBOUND_RANGES, proxy["excludeIPRanges"]),
        "includePorts": said(names.INCLUDE_INBOUND_PORTS, proxy["includeInboundPorts"]),
        "excludePorts": ",".join(dict.fromkeys([*own, *others])),
        "includeOutboundPorts": said(names.INCLUDE_OUTBOUND_PORTS, proxy["includeOutboundPorts"]),
        "excludeOutboundPorts": said(names.EXCLUDE_OUTBOUND_PORTS, proxy["excludeOutboundPorts"]),
        "excludeInterfaces": said(names.EXCLUDE_INTERFACES, ""),
        "interfaces": said(names.KUBEVIRT_INTERFACES, ""),
    }


def _app(facts: Facts) -> dict[str, Any]:
    containers = (facts.pod.get("spec") or {}).get("containers") or []
    applications = [one["name"] for one in containers if one["name"] != names.PROXY]
    ports = [port for one in containers for port in one.get("ports") or ()]
    return {
        "containers": ",".join(applications),
        "first": applications[0] if applications else "",
        "ports": msgspec.json.encode(ports).decode(),
    }


def _named(text: str | None) -> list[dict[str, Any]]:
    if text is None:
        return []
    return [{"name": name, **entry} for name, entry in sorted(json_map(text).items())]

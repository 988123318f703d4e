"""What an installation brings beside the control plane, which is no pod here: values only.

Owns namespaces, the Service of the webhooks with its endpoint, and the webhook configurations.
The rule that is easy to break: nothing says whom the API server trusts, because that is for the
control plane to write.
"""

from __future__ import annotations

from typing import Any, Final

from controlplane.agent.bootstrap import SocketAddress

SYSTEM: Final = "istio-system"
INJECTED: Final = {"istio-injection": "enabled"}
_REVISION: Final = {"istio.io/rev": "default"}
_GROUPS: Final = [f"{name}.istio.io" for name in ("networking", "security", "telemetry")]
_PORT: Final = {"name": "https-webhook", "port": 443, "targetPort": 15017}


def mesh_config(xds: SocketAddress) -> dict[str, Any]:
    """The MeshConfig: the node has neither a DNS server nor a kube-proxy, so proxies get both."""
    return {
        "defaultConfig": {
            "discoveryAddress": str(xds),
            "proxyMetadata": {"ISTIO_META_DNS_CAPTURE": "true"},
        }
    }


def installation(address: str) -> tuple[dict[str, Any], ...]:
    """The objects, the webhooks being served at port 15017 of an address."""
    return (
        _object("v1", "Namespace", SYSTEM),
        _object("v1", "Namespace", "default", labels=INJECTED),
        _object("v1", "Service", "istiod", namespace=SYSTEM, spec={"ports": [_PORT]}),
        _object(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "istiod",
            namespace=SYSTEM,
            labels={"kubernetes.io/service-name": "istiod"},
            addressType="IPv4",
            ports=[{"name": _PORT["name"], "port": _PORT["targetPort"]}],
            endpoints=[{"addresses": [address], "conditions": {"ready": True}}],
        ),
        _object(
            "admissionregistration.k8s.io/v1",
            "MutatingWebhookConfiguration",
            "istio-sidecar-injector",
            labels=_REVISION,
            webhooks=[
                _injection("namespace", namespaceSelector={"matchLabels": INJECTED}),
                _injection(
                    "object",
                    objectSelector={"matchLabels": {"sidecar.istio.io/inject": "true"}},
                    namespaceSelector={"matchExpressions": [_without("istio-injection")]},
                ),
            ],
        ),
        _object(
            "admissionregistration.k8s.io/v1",
            "ValidatingWebhookConfiguration",
            "istio-validator",
            labels=_REVISION,
            webhooks=[
                _webhook(
                    "rev.validation.istio.io",
                    "/validate",
                    rule=_rule(_GROUPS, "*", "*", "CREATE", "UPDATE"),
                    failurePolicy="Ignore",
                )
            ],
        ),
    )


def _injection(kind: str, **selectors: Any) -> dict[str, Any]:
    rule = _rule([""], "v1", "pods", "CREATE")
    name = f"{kind}.sidecar-injector.istio.io"
    return _webhook(name, "/inject", rule=rule, failurePolicy="Fail", **selectors)


def _webhook(name: str, path: str, *, rule: dict[str, Any], **rest: Any) -> dict[str, Any]:
    service = {"name": "istiod", "namespace": SYSTEM, "path": path, "port": _PORT["port"]}
    return {
        "name": name,
        "clientConfig": {"service": service},
        "rules": [rule],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **rest,
    }


def _rule(groups: list[str], version: str, resource: str, *operations: str) -> dict[str, Any]:
    return {
        "operations": list(operations),
        "apiGroups": groups,
        "apiVersions": [version],
        "resources": [resource],
    }


def _without(label: str) -> dict[str, str]:
    return {"key": label, "operator": "DoesNotExist"}


def _object(
    version: str,
    kind: str,
    name: str,
    *,
    namespace: str = "",
    labels: dict[str, str] | None = None,
    **rest: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name}
    if namespace:
        metadata["namespace"] = namespace
    if labels:
        metadata["labels"] = labels
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **rest}

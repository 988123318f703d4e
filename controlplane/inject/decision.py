"""Who gets a sidecar, and which rule says so.

Owns Istio's order of rules: those of the injector itself, and those which the selectors of its
webhook configuration express. Must not know templates. The rule that is easy to break: the
namespace is asked before the pod's own wish, because in Istio the API server does not even call
the injector for a namespace that is not selected.

Rules: pkg/kube/inject (injectRequired) and the MutatingWebhookConfiguration of Istio's chart.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controlplane.inject.names import (
    DEFAULT_REVISION,
    IGNORED_NAMESPACES,
    INJECT,
    INJECTION,
    PROXY,
    REVISION,
    STATUS,
)
from controlplane.inject.selectors import matches
from controlplane.model.mesh import LabelSelector

_TRUE: Final = frozenset({"y", "yes", "true", "on"})


class Rule(enum.StrEnum):
    """What decided, in the order in which it is asked."""

    HOST_NETWORK = "hostNetwork"
    IGNORED_NAMESPACE = "ignored namespace"
    NAMESPACE_LABEL = "namespace label"
    POD_REVISION = "pod label istio.io/rev"
    POD_LABEL = "pod label"
    POD_ANNOTATION = "pod annotation"
    NEVER_SELECTOR = "neverInjectSelector"
    ALWAYS_SELECTOR = "alwaysInjectSelector"
    POLICY = "policy"
    ALREADY_INJECTED = "already injected"


class Decision(msgspec.Struct, frozen=True):
    """Whether to inject; `reason` is the rule's sentence about this pod."""

    inject: bool
    rule: Rule
    reason: str

    def __str__(self) -> str:
        verb = "injected" if self.inject else "left alone"
        return f"{verb}, by the rule {self.rule}: {self.reason}"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's settings that the decision reads.

    `revisions` are the names of this control plane: its own and its tags. The revision `default`
    also answers for namespaces with `istio-injection`. `by_default` is the chart's
    enableNamespacesByDefault: namespaces without any label are selected too.
    """

    enabled: bool = True
    never: tuple[LabelSelector, ...] = ()
    always: tuple[LabelSelector, ...] = ()
    revisions: frozenset[str] = frozenset({DEFAULT_REVISION})
    by_default: bool = False


def decide(
    pod: Mapping[str, Any],
    *,
    namespace: str,
    policy: Policy,
    namespace_labels: Mapping[str, str] | None = None,
) -> Decision:
    """Return whether this pod gets a sidecar, and why.

    `namespace_labels` is None when they are unknown, as for files: what is asked for by hand is
    then selected, as `istioctl kube-inject` does it.
    """
    if (pod.get("spec") or {}).get("hostNetwork"):
        return Decision(
            False,
            Rule.HOST_NETWORK,
            "it uses the node's network, and capture would change the node's own rules",
        )
    if namespace in IGNORED_NAMESPACES:
        return Decision(
            False, Rule.IGNORED_NAMESPACE, f"nothing in namespace {namespace} is injected"
        )
    labels = _strings(pod, "labels")
    selection = None
    if namespace_labels is not None:
        selection = _select(labels, namespace, namespace_labels, policy)
        if not selection.inject:
            return selection
    decision = _wish(pod, labels) or _selectors(labels, policy) or _default(policy, selection)
    if decision.inject and is_injected(pod):
        return Decision(
            False, Rule.ALREADY_INJECTED, f"it has {STATUS} and the containers that this names"
        )
    return decision


def is_injected(pod: Mapping[str, Any]) -> bool:
    """Whether the pod has the status annotation and every container that it names.

    An annotation alone is not enough: it is left behind when somebody copies the metadata of a
    running pod. A status that names nothing readable counts when there is a proxy.
    """
    status = _strings(pod, "annotations").get(STATUS)
    if status is None:
        return False
    spec = pod.get("spec") or {}
    present = {
        container.get("name")
        for field in ("initContainers", "containers")
        for container in spec.get(field) or ()
    }
    return _named_by(status) <= present


def _named_by(status: str) -> set[str]:
    try:
        found = msgspec.json.decode(status, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {PROXY}
    names: set[str] = set()
    for field in ("initContainers", "containers"):
        entries = found.get(field)
        if isinstance(entries, list):
            names |= {name for name in entries if isinstance(name, str)}
    return names or {PROXY}


def _select(
    labels: Mapping[str, str], namespace: str, asked: Mapping[str, str], policy: Policy
) -> Decision:
    """What the selectors of the webhook configuration say."""
    injection = asked.get(INJECTION)
    revision = asked.get(REVISION)
    ours = ", ".join(sorted(policy.revisions))
    is_default = DEFAULT_REVISION in policy.revisions
    if injection is not None:
        said = f"namespace {namespace} has {INJECTION}={injection}"
        if injection == "enabled" and is_default:
            return Decision(True, Rule.NAMESPACE_LABEL, said)
        if injection == "enabled":
            said += f", which asks for the default revision, and this is {ours}"
        return Decision(False, Rule.NAMESPACE_LABEL, said)
    if revision is not None:
        said = f"namespace {namespace} has {REVISION}={revision}"
        if revision in policy.revisions:
            return Decision(True, Rule.NAMESPACE_LABEL, said)
        return Decision(False, Rule.NAMESPACE_LABEL, f"{said}, and this is {ours}")
    wanted = labels.get(REVISION)
    if wanted is not None:
        said = f"the pod has {REVISION}={wanted}"
        if wanted in policy.revisions:
            return Decision(True, Rule.POD_REVISION, said)
        return Decision(False, Rule.POD_REVISION, f"{said}, and this is {ours}")
    if is_default and labels.get(INJECT) == "true":
        return Decision(True, Rule.POD_LABEL, f"the pod has the label {INJECT}=true")
    if is_default and policy.by_default:
        return Decision(True, Rule.NAMESPACE_LABEL, "namespaces without a label are injected")
    return Decision(
        False,
        Rule.NAMESPACE_LABEL,
        f"namespace {namespace} has neither {INJECTION} nor {REVISION}, and the pod asks for "
        "nothing",
    )


def _wish(pod: Mapping[str, Any], labels: Mapping[str, str]) -> Decision | None:
    if INJECT in labels:
        rule, kind, value = Rule.POD_LABEL, "label", labels[INJECT]
    else:
        rule, kind, value = (
            Rule.POD_ANNOTATION,
            "annotation",
            _strings(pod, "annotations").get(INJECT, ""),
        )
    if not value:
        return None
    return Decision(value.lower() in _TRUE, rule, f"the pod has the {kind} {INJECT}={value}")


def _selectors(labels: Mapping[str, str], policy: Policy) -> Decision | None:
    for rule, selectors in (
        (Rule.NEVER_SELECTOR, policy.never),
        (Rule.ALWAYS_SELECTOR, policy.always),
    ):
        for index, selector in enumerate(selectors):
            if matches(selector, labels):
                return Decision(
                    rule is Rule.ALWAYS_SELECTOR, rule, f"its labels match {rule}[{index}]"
                )
    return None


def _default(policy: Policy, selection: Decision | None) -> Decision:
    if not policy.enabled:
        return Decision(False, Rule.POLICY, "the policy is disabled, and the pod asks for nothing")
    if selection is not None:
        return selection
    return Decision(True, Rule.POLICY, "the policy is enabled")


def _strings(pod: Mapping[str, Any], field: str) -> Mapping[str, str]:
    found: Mapping[str, str] = (pod.get("metadata") or {}).get(field) or {}
    return found

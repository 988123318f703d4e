"""Who gets a sidecar: one line for each rule, and which rule wins."""

from __future__ import annotations

from typing import Any

import pytest

from controlplane.inject.decision import Decision, Policy, Rule, decide, is_injected
from controlplane.model.base import FrozenDict
from controlplane.model.mesh import LabelSelector, LabelSelectorRequirement

ENABLED = {"istio-injection": "enabled"}


def pod(
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """Return a pod of one container."""
    return {
        "metadata": {"labels": labels or {}, "annotations": annotations or {}},
        "spec": {"containers": [{"name": "app", "image": "app"}], **spec},
    }


def decided(
    made: dict[str, Any],
    namespace_labels: dict[str, str] | None = None,
    *,
    namespace: str = "default",
    policy: Policy | None = None,
) -> Decision:
    """Return the decision about a pod."""
    return decide(
        made,
        namespace=namespace,
        policy=policy or Policy(),
        namespace_labels=namespace_labels,
    )


WISH = "sidecar.istio.io/inject"
LABELLED = pod({WISH: "true"})
REFUSING = pod({WISH: "false"})


@pytest.mark.parametrize(
    ("made", "namespace_labels", "inject", "rule"),
    [
        (pod(), None, True, Rule.POLICY),
        (pod(), ENABLED, True, Rule.NAMESPACE_LABEL),
        (pod(), {"istio-injection": "disabled"}, False, Rule.NAMESPACE_LABEL),
        (pod(), {}, False, Rule.NAMESPACE_LABEL),
        (pod(), {"istio.io/rev": "default"}, True, Rule.NAMESPACE_LABEL),
        (pod(), {"istio.io/rev": "canary"}, False, Rule.NAMESPACE_LABEL),
        # istio-injection is asked first, as in the selectors of Istio's webhooks.
        (pod(), {**ENABLED, "istio.io/rev": "canary"}, True, Rule.NAMESPACE_LABEL),
        (LABELLED, {"istio-injection": "disabled"}, False, Rule.NAMESPACE_LABEL),
        (LABELLED, {}, True, Rule.POD_LABEL),
        (REFUSING, ENABLED, False, Rule.POD_LABEL),
        (pod({"istio.io/rev": "default"}), {}, True, Rule.POD_REVISION),
        (pod({"istio.io/rev": "canary"}), {}, False, Rule.POD_REVISION),
        (pod({"istio.io/rev": "canary", WISH: "true"}), {}, False, Rule.POD_REVISION),
        # An annotation does not select; only a label reaches the webhook.
        (pod(annotations={WISH: "true"}), {}, False, Rule.NAMESPACE_LABEL),
        (pod(annotations={WISH: "false"}), ENABLED, False, Rule.POD_ANNOTATION),
        (pod({WISH: "true"}, {WISH: "false"}), ENABLED, True, Rule.POD_LABEL),
        (pod({WISH: "false"}, {WISH: "true"}), ENABLED, False, Rule.POD_LABEL),
        (pod({WISH: "Yes"}), ENABLED, True, Rule.POD_LABEL),
        (pod({WISH: "ON"}), ENABLED, True, Rule.POD_LABEL),
        (pod({WISH: "1"}), ENABLED, False, Rule.POD_LABEL),
        (pod({WISH: ""}), ENABLED, True, Rule.NAMESPACE_LABEL),
        (pod({WISH: ""}, {WISH: "false"}), ENABLED, True, Rule.NAMESPACE_LABEL),
        (pod({WISH: "true"}, hostNetwork=True), ENABLED, False, Rule.HOST_NETWORK),
        (pod({WISH: "true"}, hostNetwork=False), ENABLED, True, Rule.POD_LABEL),
    ],
)
def test_the_rule_that_decides(
    made: dict[str, Any], namespace_labels: dict[str, str] | None, inject: bool, rule: Rule
) -> None:
    found = decided(made, namespace_labels)
    assert (found.inject, found.rule) == (inject, rule), found.reason


@pytest.mark.parametrize(
    "namespace", ["kube-system", "kube-public", "kube-node-lease", "local-path-storage"]
)
def test_namespaces_of_kubernetes_are_never_injected(namespace: str) -> None:
    found = decided(LABELLED, ENABLED, namespace=namespace)
    assert (found.inject, found.rule) == (False, Rule.IGNORED_NAMESPACE)
    assert namespace in found.reason


def selector(**labels: str) -> LabelSelector:
    """Return a selector of labels."""
    return LabelSelector(match_labels=FrozenDict(labels))


@pytest.mark.parametrize(
    ("made", "policy", "inject", "rule"),
    [
        (pod({"app": "a"}), Policy(never=(selector(app="a"),)), False, Rule.NEVER_SELECTOR),
        (pod({"app": "b"}), Policy(never=(selector(app="a"),)), True, Rule.NAMESPACE_LABEL),
        # Never wins over always, a pod's own wish over both.
        (
            pod({"app": "a"}),
            Policy(never=(selector(app="a"),), always=(selector(app="a"),)),
            False,
            Rule.NEVER_SELECTOR,
        ),
        (
            pod({"app": "a", WISH: "true"}),
            Policy(never=(selector(app="a"),)),
            True,
            Rule.POD_LABEL,
        ),
        (
            pod({"app": "a"}),
            Policy(enabled=False, always=(selector(app="a"),)),
            True,
            Rule.ALWAYS_SELECTOR,
        ),
        (pod(), Policy(enabled=False), False, Rule.POLICY),
        (pod(annotations={WISH: "true"}), Policy(enabled=False), True, Rule.POD_ANNOTATION),
        # An empty selector matches nothing.
        (pod(), Policy(never=(LabelSelector(),)), True, Rule.NAMESPACE_LABEL),
    ],
)
def test_selectors_and_policy(
    made: dict[str, Any], policy: Policy, inject: bool, rule: Rule
) -> None:
    found = decided(made, ENABLED, policy=policy)
    assert (found.inject, found.rule) == (inject, rule), found.reason


@pytest.mark.parametrize(
    ("operator", "values", "labels", "matches"),
    [
        ("In", ("a", "b"), {"k": "b"}, True),
        ("In", ("a",), {}, False),
        ("NotIn", ("a",), {}, True),
        ("NotIn", ("a",), {"k": "a"}, False),
        ("Exists", (), {"k": ""}, True),
        ("Exists", (), {}, False),
        ("DoesNotExist", (), {}, True),
        ("DoesNotExist", (), {"k": "a"}, False),
    ],
)
def test_operators_of_a_selector(
    operator: Any, values: tuple[str, ...], labels: dict[str, str], matches: bool
) -> None:
    requirement = LabelSelectorRequirement(key="k", operator=operator, values=values)
    policy = Policy(never=(LabelSelector(match_expressions=(requirement,)),))
    assert decided(pod(labels), ENABLED, policy=policy).inject is not matches


def test_a_revision_answers_for_its_own_namespaces_only() -> None:
    canary = Policy(revisions=frozenset({"canary", "prod"}))
    assert decided(pod(), {"istio.io/rev": "canary"}, policy=canary).inject
    assert decided(pod(), {"istio.io/rev": "prod"}, policy=canary).inject
    assert not decided(pod(), ENABLED, policy=canary).inject
    assert not decided(LABELLED, {}, policy=canary).inject
    assert decided(pod({"istio.io/rev": "prod"}), {}, policy=canary).inject


def test_namespaces_without_a_label_can_be_injected_by_default() -> None:
    by_default = Policy(by_default=True)
    assert decided(pod(), {}, policy=by_default).inject
    assert not decided(REFUSING, {}, policy=by_default).inject


@pytest.mark.parametrize(
    ("status", "containers", "injected"),
    [
        ('{"initContainers":["istio-init"],"containers":["istio-proxy"]}', ["istio-proxy"], True),
        ('{"containers":["istio-proxy"]}', ["istio-proxy"], True),
        # Copied from a running pod together with its metadata: there is no proxy here.
        ('{"containers":["istio-proxy"]}', [], False),
        ("not json", ["istio-proxy"], True),
        ("not json", [], False),
        ("[]", ["istio-proxy"], True),
        ("{}", [], False),
    ],
)
def test_an_injected_pod_has_the_status_and_its_containers(
    status: str, containers: list[str], injected: bool
) -> None:
    made = pod(annotations={"sidecar.istio.io/status": status})
    made["spec"]["containers"] += [{"name": name} for name in containers]
    made["spec"]["initContainers"] = [{"name": "istio-init"}]
    assert is_injected(made) is injected
    assert decided(made, ENABLED).inject is not injected


def test_a_container_named_istio_proxy_alone_is_not_injected() -> None:
    made = pod()
    made["spec"]["containers"].append({"name": "istio-proxy", "image": "auto"})
    assert not is_injected(made)


def test_a_decision_reads_as_a_sentence() -> None:
    text = str(decided(pod(), {"istio.io/rev": "canary"}))
    assert text == (
        "left alone, by the rule namespace label: namespace default has istio.io/rev=canary, "
        "and this is default"
    )

"""A pod in, the pod with its sidecar out: the steps of injection, in order.

Owns the order of the steps. Must not know files, HTTP or the API server. The rule that is easy
to break: the template is filled in from the pod as its author wrote it, and only what follows
(the author's own istio-proxy, metrics, probes, order) changes the merged pod.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from controlplane.inject import names
from controlplane.inject.annotations import is_true, problems, proxy_config, warnings
from controlplane.inject.config import InjectConfig, resolve
from controlplane.inject.decision import Decision, decide
from controlplane.inject.errors import InjectConfigError
from controlplane.inject.merge import fresh, overlay
from controlplane.inject.owner import Owner, owner_of_pod
from controlplane.inject.probes import rewrite
from controlplane.inject.prometheus import merge
from controlplane.inject.scope import Facts, scope
from controlplane.inject.shape import shape_problems
from controlplane.inject.template import render
from controlplane.model.mesh import MeshConfig

AUTO_IMAGE: Final = "auto"
"""The image of an istio-proxy container whose author wants the template's."""
BEFORE_PROXY: Final = "sidecar.istio.io/init-containers-before-proxy"
_GROUPS: Final = ("initContainers", "containers")


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """The pod with its sidecar; `warnings` are sentences for its author."""

    pod: dict[str, Any]
    decision: Decision
    warnings: tuple[str, ...] = ()


class Untouched(msgspec.Struct, frozen=True):
    """The pod gets no sidecar."""

    decision: Decision


class Refused(msgspec.Struct, frozen=True):
    """The pod cannot be injected: one sentence for each mistake in it."""

    problems: tuple[str, ...]


Outcome = Injected | Untouched | Refused


def inject(
    pod: Mapping[str, Any],
    *,
    namespace: str,
    config: InjectConfig,
    mesh: MeshConfig,
    owner: Owner | None = None,
    namespace_labels: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Return what becomes of a pod; the pod itself is not changed.

    `owner` is what the pod's template belongs to; without it the pod says so by itself.
    `namespace_labels` is None when they are not known. `environment` holds variables that the
    webhook's address gives (`ISTIO_META_CLUSTER_ID`, `ISTIO_META_NETWORK`). Raises
    InjectConfigError when the template does not fit, which is the operator's mistake.
    """
    wrong = shape_problems(pod)
    if wrong:
        return Refused(tuple(wrong))
    decision = decide(
        pod, namespace=namespace, policy=config.policy, namespace_labels=namespace_labels
    )
    if not decision.inject:
        return Untouched(decision)
    said: Mapping[str, str] = (pod.get("metadata") or {}).get("annotations") or {}
    wrong = problems(said)
    templates = _templates(said, config)
    wrong += [
        f"annotation {names.TEMPLATES}: there is no template {name!r}; there are "
        f"{', '.join(sorted(config.templates))}"
        for name in templates
        if name not in config.templates
    ]
    if wrong:
        return Refused(tuple(wrong))
    facts = Facts(
        pod=pod,
        owner=owner or owner_of_pod(pod, namespace),
        mesh=mesh,
        proxy_config=proxy_config(said, mesh.default_config),
        values=config.values,
        revision=config.revision,
        environment=environment or {},
    )
    part: dict[str, Any] = {}
    for name in templates:
        # Copied, so that no list of the values or of the pod is shared with the result.
        part = overlay(part, fresh(_render(name, facts, config)))
    made, notes = _finish(_merge(pod, part, facts), part, facts, config)
    return Injected(pod=made, decision=decision, warnings=(*warnings(said), *notes))


def _templates(annotations: Mapping[str, str], config: InjectConfig) -> tuple[str, ...]:
    asked = annotations.get(names.TEMPLATES)
    if asked is None:
        return resolve(config, config.default_templates)
    return resolve(config, tuple(part.strip() for part in asked.split(",")))


def _render(name: str, facts: Facts, config: InjectConfig) -> dict[str, Any]:
    made = render(name, config.templates[name], scope(facts))
    wrong = shape_problems({"spec": {"containers": [], **(made.get("spec") or {})}, **_meta(made)})
    if wrong:
        raise InjectConfigError(f"template {name}: {wrong[0]}")
    return made


def _meta(made: Mapping[str, Any]) -> dict[str, Any]:
    return {"metadata": made["metadata"]} if "metadata" in made else {}


def _merge(pod: Mapping[str, Any], part: dict[str, Any], facts: Facts) -> dict[str, Any]:
    """The pod with the template over it, and the author's own istio-proxy over that."""
    base: dict[str, Any] = fresh(dict(pod))
    own = _own_containers(base, part, facts)
    for group in _GROUPS:
        kept = [one for one in _containers(base, group) if one["name"] not in own]
        if kept or group in base["spec"]:
            base["spec"][group] = kept
    made: dict[str, Any] = overlay(base, part)
    if not own:
        return made
    saved: dict[str, list[Any]] = {}
    for group in _GROUPS:
        for container in _containers(made, group):
            over = own.get(container["name"])
            if over is None:
                continue
            saved.setdefault(group, []).append(over)
            changes = {
                key: value
                for key, value in over.items()
                if not (key == "image" and value in (AUTO_IMAGE, ""))
            }
            container.update(overlay(container, changes))
    made["metadata"].setdefault("annotations", {})[names.OVERRIDES] = msgspec.json.encode(
        saved
    ).decode()
    _follow_user(made, own.get(names.PROXY), facts)
    return made


def _own_containers(
    pod: Mapping[str, Any], part: Mapping[str, Any], facts: Facts
) -> dict[str, dict[str, Any]]:
    """The containers of the pod that the template has too, by name; an annotation wins."""
    ours = {one["name"] for group in _GROUPS for one in _containers(part, group)}
    text = facts.annotations.get(names.OVERRIDES)
    said = msgspec.json.decode(text, type=dict[str, list[dict[str, Any]]]) if text else {}
    found = {one["name"]: one for group in _GROUPS for one in _containers(pod, group)}
    found |= {one["name"]: one for group in _GROUPS for one in said.get(group, ()) if "name" in one}
    return {name: one for name, one in found.items() if name in ours}


def _follow_user(pod: dict[str, Any], own: Mapping[str, Any] | None, facts: Facts) -> None:
    """Exempt the user from capture that the author chose for istio-proxy.

    In TPROXY mode the proxy stays root, as the capture of that mode needs it. A gateway has no
    capture, so its user is nobody's concern.
    """
    user = ((own or {}).get("securityContext") or {}).get("runAsUser")
    captured = any(one["name"] == names.INIT for one in _containers(pod, "initContainers"))
    if user is None or not captured:
        return
    if facts.mode == "TPROXY":
        for group in _GROUPS:
            for container in _containers(pod, group):
                if container["name"] == names.PROXY:
                    container["securityContext"]["runAsUser"] = 0
        return
    for container in _containers(pod, "initContainers"):
        arguments = container.get("args") or []
        # Root cannot be exempt: everything that runs as root would bypass the proxy.
        if container["name"] == names.INIT and "-u" in arguments[:-1] and user != 0:
            arguments[arguments.index("-u") + 1] = str(user)


def _finish(
    pod: dict[str, Any], part: Mapping[str, Any], facts: Facts, config: InjectConfig
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What a template cannot say: metrics, probes, status, order. Returns warnings too."""
    metadata = pod.setdefault("metadata", {})
    annotations = metadata.setdefault("annotations", {})
    labels = metadata.setdefault("labels", {})
    proxy = next(
        (one for group in _GROUPS for one in _containers(pod, group) if one["name"] == names.PROXY),
        None,
    )
    notes: tuple[str, ...] = ()
    if proxy is not None:
        variables = {**facts.environment}
        if facts.network:
            variables["ISTIO_META_NETWORK"] = facts.network
        for name, value in sorted(variables.items()):
            _set(proxy, {"name": name, "value": value})
    merging = is_true(annotations, names.MERGE_METRICS, default=facts.mesh.enable_prometheus_merge)
    if facts.status_port and merging and proxy is not None:
        merged = merge(annotations, facts.status_port)
        if merged is not None:
            metadata["annotations"] = annotations = merged.annotations
            if merged.variable is not None:
                _set(proxy, merged.variable)
    default = config.values["sidecarInjectorWebhook"]["rewriteAppHTTPProbe"]
    rewriting = is_true(annotations, names.REWRITE_PROBES, default=default)
    if facts.status_port and rewriting and proxy is not None:
        found = rewrite(pod["spec"], facts.status_port)
        pod["spec"] = found.spec
        notes = found.warnings
        if found.table:
            _set(proxy, found.variable)
    if facts.network:
        labels[names.NETWORK] = facts.network
    annotations[names.STATUS] = _status(part, config.revision)
    annotations.update(config.injected_annotations)
    _order(pod["spec"], annotations, hold=facts.hold)
    return pod, notes


def _set(container: dict[str, Any], variable: dict[str, str]) -> None:
    container["env"] = overlay(container.get("env") or [], [variable], "env")


def _status(part: Mapping[str, Any], revision: str) -> str:
    """Istio's status: what was added, null for nothing."""
    spec = part.get("spec") or {}
    status: dict[str, Any] = {
        field: [entry["name"] for entry in spec.get(field) or ()] or None
        for field in ("initContainers", "containers", "volumes", "imagePullSecrets")
    }
    return msgspec.json.encode({**status, "revision": revision}).decode()


def _order(spec: dict[str, Any], annotations: Mapping[str, str], *, hold: bool) -> None:
    """Istio's order of containers (reorderPod).

    A native proxy starts before all other init containers, behind the capture, so that they can
    reach the network. Without one capture comes last, because they could not. The proxy is the
    last of the containers, so that `kubectl exec` means the application, or the first of them
    when the application shall wait.
    """
    init = _containers({"spec": spec}, "initContainers")
    by_name = {one["name"]: one for one in init}
    if names.PROXY in by_name:
        asked = annotations.get(BEFORE_PROXY, "").split(",")
        before = [name.strip() for name in asked if name.strip() in by_name]
        first = list(dict.fromkeys([names.INIT, *before, names.PROXY]))
        rest = [name for name in by_name if name not in first]
        order = [name for name in first if name in by_name] + rest
    else:
        order = sorted(by_name, key=lambda name: name == names.INIT)
    if init:
        spec["initContainers"] = [by_name[name] for name in order]
    spec["containers"] = sorted(
        spec["containers"], key=lambda one: (one["name"] == names.PROXY) is not hold
    )


def _containers(pod: Mapping[str, Any], group: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (pod.get("spec") or {}).get(group) or []
    return found

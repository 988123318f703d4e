"""What the pod says of itself: files of the downward API, addresses, environment.

Owns how these are read and written as node metadata, with Istio's keys.
Must not know the bootstrap, nor processes.
Easy to break: the environment comes in as a mapping, so that a node can be made in a test without
touching the process.
"""

from __future__ import annotations

import ast
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from controlplane.errors import UsageError
from controlplane.model.base import FrozenDict, Labels, Model, freeze

POD_DIRECTORY: Final = Path("/etc/istio/pod")
META: Final = "ISTIO_META_"
META_JSON: Final = "ISTIO_METAJSON_"
TEMPLATE_HASH: Final = "pod-template-hash"
# A network's address that nobody answers: only the route towards it is asked for.
_FAR: Final = ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1"))


class Pod(Model):
    """The pod around the agent, as far as it is known. `ips` has at least one address."""

    name: str = ""
    namespace: str = ""
    service_account: str = ""
    ips: tuple[str, ...] = ("127.0.0.1",)
    labels: Labels = FrozenDict()
    annotations: Labels = FrozenDict()


def read_pod(
    environment: Mapping[str, str],
    *,
    directory: Path = POD_DIRECTORY,
    ip: str = "",
) -> Pod:
    """Return the pod that environment and files describe; `ip` replaces INSTANCE_IP.

    Raises UsageError when a variable cannot be understood.
    """
    first = ip or environment.get("INSTANCE_IP", "")
    labels = read_items(directory / "labels") | strings_of(environment, "LABELS")
    annotations = read_items(directory / "annotations") | strings_of(environment, "ANNOTATIONS")
    return Pod(
        name=environment.get("POD_NAME", ""),
        namespace=environment.get("POD_NAMESPACE", ""),
        service_account=environment.get("SERVICE_ACCOUNT", ""),
        ips=pod_addresses(first, environment.get(f"{META}INSTANCE_IPS", "")),
        labels=Labels(labels),
        annotations=Labels(annotations),
    )


def read_items(file: Path) -> dict[str, str]:
    """Return the items of a downward API file, none when it cannot be read."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return {}
    found = parse_items(text)
    found.pop(TEMPLATE_HASH, None)
    return found


def parse_items(text: str) -> dict[str, str]:
    """Return the items of lines `key="value"`; a line of another form is left out."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, quoted = line.strip().partition("=")
        if not equals:
            continue
        value = unquote(quoted)
        if value is not None:
            found[key] = value
    return found


def unquote(text: str) -> str | None:
    r"""Return what a Go string literal means, None when it is none.

    Go's escapes are JSON's and Python's: `\x` and `\U` only Python's.
    """
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return None
    return value if isinstance(value, str) else None


def strings_of(environment: Mapping[str, str], key: str) -> dict[str, str]:
    """Return the JSON object of strings in ISTIO_METAJSON_<key>; raises UsageError."""
    return {name: str(value) for name, value in json_object(environment, META_JSON + key).items()}


def json_object(environment: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the JSON object in a variable, an empty one when it is not set.

    Raises UsageError naming the variable.
    """
    text = environment.get(name, "")
    if not text:
        return {}
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise UsageError(f"{name} is not a JSON object: {error}") from None


def pod_addresses(first: str, others: str) -> tuple[str, ...]:
    """Return the pod's addresses: the given ones, and those by which the machine reaches others.

    `first` decides the node id; `others` is a comma-separated list. Raises UsageError when one
    of them is no address.
    """
    given = [text.strip() for text in (first, *others.split(",")) if text.strip()]
    for text in given:
        if not _is_address(text):
            raise UsageError(f"{text!r} is not an IP address of the pod")
    if given:
        if ipaddress.ip_address(given[0]).is_loopback:
            return tuple(dict.fromkeys(given))  # a bed on one machine, whose addresses are others'
        families = {":" in text for text in given}
        given += [text for text in own_addresses() if (":" in text) not in families]
        return tuple(dict.fromkeys(given))
    return own_addresses() or ("127.0.0.1",)


def own_addresses() -> tuple[str, ...]:
    """The addresses that packets to far networks would be sent from, IPv4 first."""
    found: list[str] = []
    for family, far in _FAR:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far, 9))
                address = ipaddress.ip_address(str(probe.getsockname()[0]).partition("%")[0])
        except OSError:
            continue
        if not address.is_loopback and not address.is_link_local:
            found.append(str(address))
    return tuple(found)


def node_metadata(
    pod: Pod, environment: Mapping[str, str], *, proxy_config: Mapping[str, Any]
) -> FrozenDict[str, Any]:
    """Return the node's metadata: the pod, what ISTIO_META_* and ISTIO_METAJSON_* add.

    WORKLOAD_CERTIFICATES is `none` whatever the environment says: this agent has no certificates
    to serve, and must not be sent what needs them. Raises UsageError when a variable cannot be
    understood.
    """
    found: dict[str, Any] = {
        "NAME": pod.name,
        "NAMESPACE": pod.namespace,
        "SERVICE_ACCOUNT": pod.service_account,
        "CLUSTER_ID": "Kubernetes",
        "INSTANCE_IPS": ",".join(pod.ips),
        "LABELS": dict(pod.labels),
        "ANNOTATIONS": dict(pod.annotations),
        "PROXY_CONFIG": dict(proxy_config),
    }
    for variable, value in sorted(environment.items()):
        if variable.startswith(META):
            found[variable.removeprefix(META)] = value
        elif variable.startswith(META_JSON) and variable.removeprefix(META_JSON) not in found:
            found.update(json_object(environment, variable))
    found["INSTANCE_IPS"] = ",".join(pod.ips)
    found["WORKLOAD_CERTIFICATES"] = "none"
    frozen: FrozenDict[str, Any] = freeze(
        {key: value for key, value in found.items() if value not in ("", {}, None)}
    )
    return frozen


def service_cluster(pod: Pod, workload: str, *, how: str) -> str:
    """Return the name of the node's cluster, after which traces name the service.

    `how` is ProxyConfig's tracingServiceName. Source: Istio's bootstrap, "service cluster".
    """
    namespace = pod.namespace
    canonical = pod.labels.get("service.istio.io/canonical-name", "")
    match how:
        case "CANONICAL_NAME_ONLY" if canonical:
            return canonical
        case "CANONICAL_NAME_AND_NAMESPACE" if canonical:
            return f"{canonical}.{namespace}" if namespace else canonical
    names: Iterable[str] = (pod.labels.get("app", ""), workload, "istio-proxy")
    name = next(filter(None, names))
    return f"{name}.{namespace}" if namespace else name


def locality(pod: Pod) -> str:
    """Return `region/zone/subzone` of the pod's label istio-locality, which writes dots."""
    text = pod.labels.get("istio-locality", "")
    return text if "/" in text else text.replace(".", "/")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True

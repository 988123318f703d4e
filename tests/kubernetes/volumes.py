"""The volumes of a pod as directories of the machine: what the kubelet writes into them.

Owns emptyDir, downwardAPI, configMap, secret and projected volumes. Must not know containers. The
rule that is easy to break: they are written once, when the pod starts; a token or a ConfigMap that
changes later is not followed.
"""

from __future__ import annotations

import base64
from pathlib import Path

from controlplane.kubernetes.errors import NotFoundError
from tests.kubernetes.api import Api, Object, insist
from tests.kubernetes.container import Mount
from tests.kubernetes.pod_fields import UnsupportedError, account_of, field


async def write_volumes(api: Api, pod: Object, directory: Path) -> dict[str, Path]:
    """Make every volume of a pod, and return their directories by name.

    Raises UnsupportedError for another kind, NotFoundError for an object that must be there.
    """
    made: dict[str, Path] = {}
    for volume in pod["spec"].get("volumes") or ():
        place = made[volume["name"]] = directory / volume["name"]
        place.mkdir(parents=True)
        if "emptyDir" in volume:
            place.chmod(0o777)
            continue
        kind = next(name for name in volume if name != "name")
        files = (
            [await _files(api, pod, source) for source in volume["projected"].get("sources") or ()]
            if kind == "projected"
            else [await _files(api, pod, {kind: volume[kind]})]
        )
        for name, content in (item for found in files for item in found.items()):
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    return made


def mounts_of(container: Object, volumes: dict[str, Path]) -> list[Mount]:
    """The volumes that a container mounts, the outer ones first."""
    made = []
    for mount in container.get("volumeMounts") or ():
        if "subPathExpr" in mount:
            raise UnsupportedError("subPathExpr")
        source = volumes[mount["name"]] / mount.get("subPath", "")
        read_only = bool(mount.get("readOnly"))
        made.append(Mount(source=str(source), target=mount["mountPath"], read_only=read_only))
    return sorted(made, key=lambda mount: mount["target"])


async def _files(api: Api, pod: Object, source: Object) -> dict[str, bytes]:
    """The files of one source of a projected volume, or of a volume of that kind."""
    match source:
        case {"downwardAPI": {"items": items}}:
            return {
                item["path"]: field(pod, item["fieldRef"]["fieldPath"]).encode() for item in items
            }
        case {"serviceAccountToken": dict(wanted)}:
            return {wanted["path"]: await _token(api, pod, wanted)}
        case {"configMap": dict(wanted)}:
            return await _data(api, pod, "configmaps", wanted.get("name", ""), wanted)
        case {"secret": dict(wanted)}:
            name = wanted.get("secretName") or wanted.get("name", "")
            return await _data(api, pod, "secrets", name, wanted)
    raise UnsupportedError(f"a volume of {'/'.join(source)}")


async def _data(api: Api, pod: Object, kind: str, name: str, wanted: Object) -> dict[str, bytes]:
    path = f"/api/v1/namespaces/{pod['metadata']['namespace']}/{kind}/{name}"
    try:
        found = await insist(lambda: api.get(path))
    except NotFoundError:
        if wanted.get("optional"):
            return {}
        raise
    encoded = kind == "secrets"
    data = {
        key: base64.b64decode(value) if encoded else value.encode()
        for key, value in (found.get("data") or {}).items()
    }
    data |= {key: base64.b64decode(value) for key, value in (found.get("binaryData") or {}).items()}
    if wanted.get("items"):
        return {item["path"]: data[item["key"]] for item in wanted["items"]}
    return data


async def _token(api: Api, pod: Object, wanted: Object) -> bytes:
    """A token for the pod's service account, as the API server issues it."""
    metadata = pod["metadata"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    spec = {
        "audiences": [wanted["audience"]] if wanted.get("audience") else [],
        "expirationSeconds": wanted.get("expirationSeconds", 3600),
        "boundObjectRef": bound,
    }
    path = f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account_of(pod)}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = await insist(lambda: api.create(path, body))
    return str(answer["status"]["token"]).encode()

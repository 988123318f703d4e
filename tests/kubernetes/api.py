"""Objects of the API server as dictionaries, over the client of the control plane.

Must not know who asks. The rule that is easy to break: an API server may be away for a while, so
whoever writes what must arrive uses `insist`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

from controlplane.kubernetes.client import MERGE_PATCH, Client
from controlplane.kubernetes.errors import (
    GoneError,
    KubernetesError,
    TooManyRequestsError,
    UnavailableError,
)

Object = dict[str, Any]
_PAUSE: Final = 0.2  # seconds before an API server that is away is asked again
_T = TypeVar("_T")


class Api:
    """An API server."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def create(self, path: str, body: Object) -> Object:
        """Create an object below the path of its collection; raises KubernetesError."""
        return self._object(await self._client.request("POST", path, body=_encode(body)))

    async def get(self, path: str) -> Object:
        """Return an object or a list; raises KubernetesError."""
        return self._object(await self._client.request("GET", path))

    async def patch(self, path: str, body: Object) -> Object:
        """Merge fields into an object; raises KubernetesError."""
        answer = await self._client.request(
            "PATCH", path, body=_encode(body), content_type=MERGE_PATCH
        )
        return self._object(answer)

    async def delete(self, path: str, options: Object) -> None:
        """Delete an object; raises KubernetesError."""
        await self._client.request("DELETE", path, body=_encode(options))

    async def follow(self, path: str) -> AsyncIterator[list[Object]]:
        """Yield all objects of a collection, again after each change, for ever.

        An API server that is away, or that has forgotten too much, is listed again.
        """
        while True:
            try:
                found = await self.get(path)
                version = found["metadata"]["resourceVersion"]
                objects = {_uid(item): item for item in found["items"]}
                yield list(objects.values())
                query = {"resourceVersion": version, "allowWatchBookmarks": "true"}
                async with self._client.watch(path, query=query) as batches:
                    async for batch in batches:
                        for line in batch:
                            _take(objects, self._object(line))
                        yield list(objects.values())
            except (GoneError, UnavailableError, TooManyRequestsError):
                await asyncio.sleep(_PAUSE)

    @staticmethod
    def _object(text: bytes) -> Object:
        decoded: Object = json.loads(text)
        return decoded


async def insist(ask: Callable[[], Awaitable[_T]]) -> _T:
    """Ask until there is an API server; raises every KubernetesError but its absence."""
    while True:
        try:
            return await ask()
        except (UnavailableError, TooManyRequestsError):
            await asyncio.sleep(_PAUSE)


def _take(objects: dict[str, Object], event: Object) -> None:
    item = event["object"]
    match event["type"]:
        case "ADDED" | "MODIFIED":
            objects[_uid(item)] = item
        case "DELETED":
            objects.pop(_uid(item), None)
        case "ERROR":
            message = item.get("message", "the watch failed")
            raise GoneError(message) if item.get("code") == 410 else KubernetesError(message)


def _uid(item: Object) -> str:
    return str(item["metadata"]["uid"])


def _encode(body: Object) -> bytes:
    return json.dumps(body).encode()

"""Bearer tokens of Kubernetes: the API server says whose they are.

Must not know the endpoints. The rule that is easy to break: a caller from the network decides how
often this is asked, so questions to the API server are few at a time.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from controlplane.debug.auth import Identity
from controlplane.kubernetes.client import Client
from controlplane.kubernetes.errors import KubernetesError
from controlplane.kubernetes.paths import Resource

TOKEN_REVIEWS: Final = Resource("authentication.k8s.io", "v1", "tokenreviews")
_ACCOUNT: Final = "system:serviceaccount:"
_ADMINISTRATORS: Final = "system:masters"
_AT_ONCE: Final = 4
_PATIENCE: Final = 10.0  # seconds


class _User(msgspec.Struct, frozen=True):
    username: str = ""
    groups: tuple[str, ...] = ()


class _Status(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: _User = _User()


class _Review(msgspec.Struct):
    status: _Status = _Status()


class TokenReviews:
    """Knows the tokens that the API server knows (`authentication.k8s.io` TokenReview).

    As in istiod, an account of the root namespace opens everything, one of another namespace
    its own proxies; administrators of the cluster open everything.
    """

    def __init__(self, client: Client, *, root_namespace: str) -> None:
        self._client: Final = client
        self._root_namespace: Final = root_namespace
        self._limit: Final = asyncio.Semaphore(_AT_ONCE)

    async def authenticate(self, token: str) -> Identity | None:
        """Return whose token this is, None when the API server does not know it or is away."""
        asked = {
            "apiVersion": f"{TOKEN_REVIEWS.group}/{TOKEN_REVIEWS.version}",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        try:
            async with self._limit:
                answer = await self._client.request(
                    "POST", TOKEN_REVIEWS.path(), body=msgspec.json.encode(asked), seconds=_PATIENCE
                )
            status = msgspec.json.decode(answer, type=_Review).status
        except (KubernetesError, msgspec.DecodeError):
            return None
        if not status.authenticated:
            return None
        return self._identity(status.user)

    def _identity(self, user: _User) -> Identity:
        namespace = ""
        if user.username.startswith(_ACCOUNT):
            namespace = user.username.removeprefix(_ACCOUNT).partition(":")[0]
        privileged = namespace == self._root_namespace or _ADMINISTRATORS in user.groups
        return Identity(name=user.username, namespace=namespace, privileged=privileged)

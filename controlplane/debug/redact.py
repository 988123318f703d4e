"""Takes secrets out of JSON-like data before anybody sees it.

Owns the list of places where private keys and tokens sit in Envoy's messages and in Kubernetes
objects. Must not know who reads. The rule that is easy to break: every view goes through here,
also one whose data "cannot" hold a secret, because users put secrets into any string.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

REDACTED: Final = "[redacted]"

# Keys whose value is secret wherever it stands, without regard to case, `_` and `-`.
_SECRET_KEYS: Final = frozenset(
    "accesstoken apikey bearertoken clientsecret inlinepassword password passphrase secretkey "
    "servicetoken sessiontoken token".split()
)
# Envoy's DataSource fields whose content is secret; a file name inside may be shown.
_SECRET_SOURCES: Final = frozenset(
    "genericsecret privatekey password pkcs12 tokensecret hmacsecret sessionticketkeys keys".split()
)
_INLINE: Final = frozenset({"inlinestring", "inlinebytes"})
# Cookies are not among them: matching on a cookie is an everyday route.
_CREDENTIAL_HEADERS: Final = frozenset({"authorization", "proxy-authorization", "x-api-key"})
_HEADER_VALUE: Final = frozenset({"key", "value", "raw_value", "rawValue"})
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_PRIVATE_KEY: Final = "PRIVATE KEY-----"


def redact(data: Any) -> Any:
    """Return the data with private keys, tokens and credentials replaced by `[redacted]`.

    Dictionaries and lists are copied, never changed.
    """
    match data:
        case Mapping():
            return _mapping(data)
        case list() | tuple():
            return [redact(entry) for entry in data]
        case str() if _PRIVATE_KEY in data:
            return REDACTED
        case _:
            return data


def _mapping(data: Mapping[Any, Any]) -> dict[Any, Any]:
    if data.get("kind") == "Secret":
        return _secret_object(data)
    if _names_credential(data):
        return {key: _credential(key, value) for key, value in data.items()}
    return {key: _entry(str(key), value) for key, value in data.items()}


def _entry(key: str, value: Any) -> Any:
    plain = key.lower().replace("_", "").replace("-", "")
    if plain in _SECRET_SOURCES and isinstance(value, Mapping | list):
        return _without_inline(redact(value))
    if plain in _SECRET_KEYS and isinstance(value, str) and value:
        return REDACTED
    if key.lower() in _CREDENTIAL_HEADERS:
        return _leaves(value)
    return redact(value)


def _secret_object(data: Mapping[Any, Any]) -> dict[Any, Any]:
    """A Kubernetes Secret: the names of its entries are shown, their values never."""
    shown: dict[Any, Any] = {}
    for key, value in data.items():
        if key in ("data", "stringData") and isinstance(value, Mapping):
            shown[key] = dict.fromkeys(value, REDACTED)
        elif key == "metadata" and isinstance(value, Mapping):
            shown[key] = _secret_metadata(value)
        else:
            shown[key] = redact(value)
    return shown


def _secret_metadata(metadata: Mapping[Any, Any]) -> dict[Any, Any]:
    shown: dict[Any, Any] = redact(metadata)
    annotations = shown.get("annotations")
    if isinstance(annotations, dict) and _LAST_APPLIED in annotations:
        # kubectl keeps a copy of the whole Secret there.
        annotations[_LAST_APPLIED] = REDACTED
    return shown


def _names_credential(data: Mapping[Any, Any]) -> bool:
    """Whether this is Envoy's HeaderValue or HeaderMatcher of a header that carries secrets."""
    if data.keys() <= _HEADER_VALUE:
        name = data.get("key")
    elif any(str(key).lower().endswith("match") for key in data):
        name = data.get("name")
    else:
        return False
    return isinstance(name, str) and name.lower() in _CREDENTIAL_HEADERS


def _credential(key: Any, value: Any) -> Any:
    return value if key in ("key", "name") else _leaves(value)


def _leaves(value: Any) -> Any:
    """Replace every string below, keeping the structure."""
    match value:
        case Mapping():
            return {key: _leaves(entry) for key, entry in value.items()}
        case list() | tuple():
            return [_leaves(entry) for entry in value]
        case str() if value:
            return REDACTED
        case _:
            return value


def _without_inline(value: Any) -> Any:
    match value:
        case Mapping():
            return {
                key: REDACTED
                if str(key).lower().replace("_", "") in _INLINE
                else _without_inline(entry)
                for key, entry in value.items()
            }
        case list() | tuple():
            return [_without_inline(entry) for entry in value]
        case _:
            return value

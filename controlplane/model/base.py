"""The building blocks of every model value: frozen structs, hashable maps, durations.

Every value here is immutable and hashable, because values are cache keys. The rule that is
easy to break: no field may hold a plain `dict` or `list`, or the value cannot be hashed.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, dataclass_transform, get_args, get_origin

import msgspec

K = TypeVar("K")
V = TypeVar("V")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class ModelMeta(msgspec.StructMeta):
    """Gives every subclass of Model the same options, which msgspec does not inherit.

    Values hold no cycles, so the garbage collector has no business with them; most are keys of a
    cache, so they keep their hash, unless a class is so numerous that it says `cache_hash=False`.
    """

    def __new__(
        mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any
    ) -> ModelMeta:
        options.setdefault("frozen", True)
        options.setdefault("kw_only", True)
        options.setdefault("gc", False)
        if bases != (msgspec.Struct,):
            options.setdefault("cache_hash", True)
        return super().__new__(mcls, name, bases, namespace, **options)


class Model(msgspec.Struct, metaclass=ModelMeta, rename="camel", omit_defaults=True):
    """A frozen value with Kubernetes' camelCase spelling on the wire; keyword arguments only."""


class FrozenDict(dict[K, V]):
    """A mapping that is never written to after it was made, and can therefore be hashed.

    The values that hold one keep their own hash; it would be kept twice here.
    """

    __slots__ = ()

    def __hash__(self) -> int:  # type: ignore[override]  # dict declares itself unhashable
        return hash(frozenset(self.items()))


Labels = FrozenDict[str, str]
"""Labels or annotations: string keys, string values."""

NO_LABELS: Final[Labels] = FrozenDict()

Value = TypeVar("Value", bound=Hashable)


def one(value: Value) -> Value:
    """Return the first of equal values that was asked for lately, so that it is kept once."""
    found: Value = _one(value)
    return found


@functools.lru_cache(maxsize=1024, typed=True)
def _one(value: Any) -> Any:
    return value


class Duration(int):
    """A length of time in nanoseconds, written as Go and protobuf write it (`1.5s`, `2h45m`)."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Return the duration that `text` says; raises ValueError when it says none."""
        if text in ("0", "+0", "-0"):
            return cls(0)
        match = _DURATION.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not a duration such as 1.5s, 500ms or 1h30m")
        total = 0.0
        whole = 0
        for number, unit in _DURATION_PART.findall(text):
            if "." in number:
                total += float(number) * _UNITS[unit]
            else:
                whole += int(number) * _UNITS[unit]
        value = whole + round(total)
        if abs(value) > _MAX_NANOSECONDS:
            raise ValueError(f"{text!r} is longer than 290 years")
        return cls(-value if text.startswith("-") else value)

    @property
    def seconds(self) -> float:
        """The length in seconds."""
        return self / 1_000_000_000

    def __str__(self) -> str:
        """The protobuf JSON form: seconds with as many digits as are needed."""
        sign = "-" if self < 0 else ""
        whole, rest = divmod(abs(int(self)), 1_000_000_000)
        if not rest:
            return f"{sign}{whole}s"
        return f"{sign}{whole}.{f'{rest:09d}'.rstrip('0')}s"

    def __repr__(self) -> str:
        return f"Duration({str(self)!r})"


_UNITS: Final = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_MAX_NANOSECONDS: Final = 2**63 - 1
_DURATION_PART: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_DURATION: Final = re.compile(rf"[+-]?(?:{_DURATION_PART.pattern})+")


def dec_hook(expected: type, value: Any) -> Any:
    """Convert what msgspec decoded into this module's own types (msgspec's `dec_hook`).

    Raises ValueError or TypeError with a sentence for the user when the value does not fit.
    """
    origin = get_origin(expected) or expected
    if origin is FrozenDict:
        return _frozen_dict(get_args(expected), value)
    if origin is Duration:
        if not isinstance(value, str):
            raise TypeError(f"Expected a duration such as `1.5s`, got `{_kind_of(value)}`")
        return Duration.parse(value)
    raise NotImplementedError(f"no conversion to {expected}")


def enc_hook(value: Any) -> Any:
    """Convert this module's own types into what msgspec can encode (msgspec's `enc_hook`)."""
    match value:
        case Duration():
            return str(value)
        case FrozenDict():
            return dict(value)
        case Sequence():
            return tuple(value)
        case _:
            raise NotImplementedError(f"no encoding of {type(value)}")


def _frozen_dict(arguments: tuple[Any, ...], value: Any) -> FrozenDict[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"Expected `object`, got `{_kind_of(value)}`")
    if not arguments or arguments[1] is Any:
        return FrozenDict(value)
    item = arguments[1]
    if item is not str:
        return FrozenDict(
            (sys.intern(key), msgspec.convert(entry, item, dec_hook=dec_hook))
            for key, entry in value.items()
        )
    intern = sys.intern
    frozen: FrozenDict[str, str] = FrozenDict()
    for key, entry in value.items():
        if type(entry) is not str or type(key) is not str:
            raise TypeError(f"Expected `str`, got `{_kind_of(entry)}` for key `{key}`")
        # Labels repeat from object to object: interned, they cost one pointer each.
        frozen[intern(key)] = intern(entry)
    found: FrozenDict[str, str] = _same_labels(frozen)
    return found


@functools.lru_cache(maxsize=128)
def _same_labels(labels: Any) -> Any:
    """Return the first of equal labels: pods of a Deployment, a selector, subsets have the same."""
    return labels


def _kind_of(value: Any) -> Literal["null", "bool", "int", "float", "str", "array", "object"]:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int():
            return "int"
        case float():
            return "float"
        case str():
            return "str"
        case Mapping():
            return "object"
        case _:
            return "array"


def freeze(value: Any) -> Any:
    """Return JSON-like data with every object as FrozenDict and every array as tuple."""
    match value:
        case Mapping():
            return FrozenDict((key, freeze(entry)) for key, entry in value.items())
        case list() | tuple():
            return tuple(freeze(entry) for entry in value)
        case _:
            return value

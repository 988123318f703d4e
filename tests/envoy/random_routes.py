"""Random VirtualServices from a pool of ordinary and hostile values."""

from __future__ import annotations

import random
from typing import Any, Final

TEXTS: Final = (
    "", "a", "/", "/a", "a b", "a\nb", "\0", "ä", "%", "%%", "%2", "*", ".*", "a{2,1}", "(", "[",
    "\\", "a|b", "(?i)a", "(?!a)", "\\1", "\\d+", "host", ":path", ":authority", "x-a", "X-A",
    "x" * 2000, "{a}", "a:80", "[::1]", "reviews", "reviews.default", "5xx", "5xx,503", "-1", "0",
    "https", "ftp",
)  # fmt: skip
NUMBERS: Final = (0, 1, -1, 42, 80, 100, 200, 301, 308, 399, 418, 500, 599, 600, 65535, 2147483647)
DURATIONS: Final = ("0s", "1ms", "-1s", "0.5s", "7s", "24h", "1ns", "250000h", "2540000h")
PERCENTS: Final = (0, 0.00001, 0.5, 33.333, 99.9999, 100)
GRPC: Final = ("OK", "UNAVAILABLE", "NO_SUCH", "")


class Maker:
    """Makes the same values from the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def virtual_service(self, number: int) -> dict[str, Any]:
        """Return a VirtualService document with a service host of its own."""
        return {
            "kind": "VirtualService",
            "metadata": {"name": f"r{number}"},
            "spec": {
                "hosts": [f"s{number}", *self._some(self._text)],
                "http": [self._route() for _ in range(self._chance.randint(1, 4))],
            },
        }

    def _pick(self, values: tuple[Any, ...]) -> Any:
        return self._chance.choice(values)

    def _text(self) -> str:
        text: str = self._pick(TEXTS)
        return text

    def _some(self, make: Any, most: int = 2) -> list[Any]:
        return [make() for _ in range(self._chance.randint(0, most))]

    def _keep(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Return each field with an even chance."""
        return {
            key: make() if callable(make) else make
            for key, make in fields.items()
            if self._chance.random() < 0.4
        }

    def _match(self) -> dict[str, Any]:
        kind = self._pick(("exact", "prefix", "regex", "exact", "prefix", ""))
        return {kind: self._text()} if kind else {}

    def _matches(self) -> dict[str, Any]:
        return {self._text(): self._match() for _ in range(self._chance.randint(0, 3))}

    def _headers(self) -> dict[str, Any]:
        def texts() -> dict[str, str]:
            return {self._text(): self._text() for _ in range(self._chance.randint(0, 2))}

        def operations() -> dict[str, Any]:
            return self._keep(
                {"set": texts, "add": texts, "remove": lambda: self._some(self._text)}
            )

        return self._keep({"request": operations, "response": operations})

    def _destination(self) -> dict[str, Any]:
        out: dict[str, Any] = {"host": self._text()}
        return out | self._keep(
            {"subset": self._text, "port": lambda: {"number": self._pick((1, 80, 9080))}}
        )

    def _weighted(self) -> dict[str, Any]:
        out: dict[str, Any] = {"destination": self._destination()}
        weights = (0, 1, 50, 100, 2147483647)
        return out | self._keep({"weight": lambda: self._pick(weights), "headers": self._headers})

    def _percentage(self) -> dict[str, Any]:
        return {"value": self._pick(PERCENTS)}

    def _retries(self) -> dict[str, Any]:
        return self._keep(
            {
                "attempts": lambda: self._pick(NUMBERS),
                "perTryTimeout": lambda: self._pick(DURATIONS),
                "retryOn": self._text,
                "retryRemoteLocalities": True,
                "retryIgnorePreviousHosts": False,
                "backoff": lambda: self._pick(DURATIONS),
            }
        )

    def _fault(self) -> dict[str, Any]:
        def delay() -> dict[str, Any]:
            return self._keep(
                {
                    "percentage": self._percentage,
                    "percent": lambda: self._pick((-1, 0, 50, 101)),
                    "fixedDelay": lambda: self._pick(DURATIONS),
                }
            )

        def abort() -> dict[str, Any]:
            return self._keep(
                {
                    "percentage": self._percentage,
                    "httpStatus": lambda: self._pick(NUMBERS),
                    "grpcStatus": lambda: self._pick(GRPC),
                }
            )

        return self._keep({"delay": delay, "abort": abort})

    def _cors(self) -> dict[str, Any]:
        return self._keep(
            {
                "allowOrigins": lambda: self._some(self._match, 3),
                "allowOrigin": lambda: self._some(self._text),
                "allowMethods": lambda: self._some(self._text),
                "allowHeaders": lambda: self._some(self._text),
                "exposeHeaders": lambda: self._some(self._text),
                "maxAge": lambda: self._pick(DURATIONS),
                "allowCredentials": True,
                "unmatchedPreflights": "IGNORE",
            }
        )

    def _rewrite(self) -> dict[str, Any]:
        return self._keep(
            {
                "uri": self._text,
                "authority": self._text,
                "uriRegexRewrite": lambda: {"match": self._text(), "rewrite": self._text()},
            }
        )

    def _redirect(self) -> dict[str, Any]:
        return self._keep(
            {
                "uri": self._text,
                "authority": self._text,
                "scheme": self._text,
                "prefixRewrite": self._text,
                "port": lambda: abs(self._pick(NUMBERS)),
                "redirectCode": lambda: abs(self._pick(NUMBERS)),
            }
        )

    def _direct(self) -> dict[str, Any]:
        body = self._pick(({}, {"body": {"string": self._text()}}, {"body": {"bytes": "%"}}))
        return {"status": abs(self._pick(NUMBERS)), **body}

    def _condition(self) -> dict[str, Any]:
        return self._keep(
            {
                "name": self._text,
                "uri": self._match,
                "scheme": self._match,
                "method": self._match,
                "authority": self._match,
                "headers": self._matches,
                "withoutHeaders": self._matches,
                "queryParams": self._matches,
                "ignoreUriCase": True,
                "statPrefix": self._text,
            }
        )

    def _route(self) -> dict[str, Any]:
        out: dict[str, Any] = {"match": [self._condition() for _ in range(2)]}
        action = self._pick(("route", "route", "route", "redirect", "directResponse"))
        match action:
            case "route":
                out["route"] = self._some(self._weighted, 3)
            case "redirect":
                out["redirect"] = self._redirect()
            case _:
                out["directResponse"] = self._direct()
        return out | self._keep(
            {
                "name": self._text,
                "rewrite": self._rewrite,
                "timeout": lambda: self._pick(DURATIONS),
                "retries": self._retries,
                "fault": self._fault,
                "mirror": self._destination,
                "mirrorPercentage": self._percentage,
                "corsPolicy": self._cors,
                "headers": self._headers,
            }
        )

"""What is counted of the leader's work.

The rule that is easy to break: no label may hold an object's name; Leases, kinds of results and
webhook configurations are few.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge


class LeaderMetrics:
    """Counters and gauges, in the registry of `/metrics`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._leads: Final = Gauge(
            "pylot_leader", "1 when this replica holds the Lease.", ("lease",), registry=registry
        )
        self._failures: Final = Counter(
            "pylot_lease_failures_total",
            "Requests for a Lease that failed.",
            ("lease",),
            registry=registry,
        )
        self._status: Final = Counter(
            "pylot_status_writes_total",
            "Attempts to write the status of an object, by what came of them.",
            ("result",),
            registry=registry,
        )
        self._waiting: Final = Gauge(
            "pylot_status_waiting", "Objects whose status is to be written.", registry=registry
        )
        # istiod's names.
        self._patches: Final = Counter(
            "webhook_patch_attempts_total", "Webhook patching attempts.", ("name",),
            registry=registry,
        )  # fmt: skip
        self._patch_failures: Final = Counter(
            "webhook_patch_failures_total", "Webhook patching failures.", ("name", "reason"),
            registry=registry,
        )  # fmt: skip
        self._expiry: Final = Gauge(
            "pylot_webhook_certificate_expiry_timestamp",
            "When the webhooks' certificate ends, in seconds since 1970.",
            registry=registry,
        )

    def leads(self, lease: str, *, leads: bool) -> None:
        """Whether this replica holds a Lease."""
        self._leads.labels(lease=lease).set(int(leads))

    def failed(self, lease: str) -> None:
        """A request for a Lease failed."""
        self._failures.labels(lease=lease).inc()

    def status(self, result: str, waiting: int) -> None:
        """A write of a status came to `written`, `unchanged`, `gone`, `conflict`, `refused` or
        `failed`; so many objects wait for theirs."""
        self._status.labels(result=result).inc()
        self._waiting.set(waiting)

    def patched(self, name: str) -> None:
        """A webhook configuration is to be patched."""
        self._patches.labels(name=name).inc()

    def patch_failed(self, name: str, reason: str) -> None:
        """Patching a webhook configuration failed; `reason` is the name of the exception."""
        self._patch_failures.labels(name=name, reason=reason).inc()

    def certificate(self, not_after: float) -> None:
        """The webhooks' certificate ends then, in seconds since the epoch."""
        self._expiry.set(not_after)

"""The exceptions of traffic capture."""

from controlplane.errors import OutsideError


class CaptureError(OutsideError):
    """The kernel, iptables or iproute2 refused; the text is one sentence for the user."""

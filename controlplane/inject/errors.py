"""The exceptions of injection: what is wrong with the injector's own files.

What is wrong with a pod is a value (`sidecar.Refused`); these are for the template, the values
and the certificate, which belong to the operator.
"""

from controlplane.errors import PylotError


class InjectConfigError(PylotError):
    """A template, a value or a setting of the injector is wrong; the text names which."""


class CertificateError(PylotError):
    """The serving certificate of the webhook cannot be read or does not fit its key."""

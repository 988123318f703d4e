"""The exceptions of the package.

    PylotError
    ├── UsageError        the command line or a setting is wrong (exit code 2)
    ├── SourceError       a source of configuration cannot be read at all
    ├── NodeError         a client's node is missing or malformed
    └── OutsideError      the world failed: a port in use, a process that died

What a user wrote wrongly in a configuration object is never an exception that leaves its
module: it is a `controlplane.model.diagnostics.Diagnostic`.
"""


class PylotError(Exception):
    """The root: its text is one sentence for the user."""


class UsageError(PylotError):
    """A flag, an argument or a setting is wrong."""


class SourceError(PylotError):
    """A source of configuration cannot be read at all."""


class NodeError(PylotError):
    """The node of an xDS request is missing or malformed."""


class OutsideError(PylotError):
    """Something outside failed: an address in use, a program that is not installed."""

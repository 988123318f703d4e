"""What the control plane tells people and Prometheus: `/debug`, `/ready`, `/version`, `/metrics`.

Owns the shapes of that output and the doors in front of it. Must not know how serving or the
sources work: it reads values (snapshot, serving status) that others made. The rule that is
easy to break: nothing leaves without passing `redact`.
"""

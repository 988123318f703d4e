"""Bookinfo on real Envoys on this machine: what `pylot demo` runs.

Owns: which processes make the example, their addresses, and the exercises as checks.
Must not know: translation or the wire. It uses the control plane as any user does: files in a
directory, an Envoy's bootstrap, HTTP.
"""

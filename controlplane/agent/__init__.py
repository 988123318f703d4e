"""Runs an Envoy beside a workload: its bootstrap, its process, its admin interface.

Must not know: what the control plane sends. An agent is a client of it, like any other Envoy.
"""

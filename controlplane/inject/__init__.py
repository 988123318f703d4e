"""Sidecar injection: who gets a sidecar, what it looks like, and the webhook that adds it.

The core (`decision`, `sidecar` and what they use) is pure: plain data in, plain data out.
`files` serves `pylot inject`, `admission` and `webhook` the API server.
"""

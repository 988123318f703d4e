"""Serving: who is subscribed to what, what was sent, what was acknowledged.

Owns streams, nonces, pacing, ordering and rejections. Must not know how a resource is made.
"""

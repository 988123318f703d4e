"""Pure functions from frozen values to Envoy resources.

Owns what the mesh means in Envoy's terms. Must not know sources, streams, clocks or logs. The
rule that is easy to break: a function reads nothing but its arguments, because the arguments
are the cache key.
"""

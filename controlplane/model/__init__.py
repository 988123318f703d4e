"""The values everything else talks about: objects, services, endpoints, proxies, snapshots.

Owns the types and the rules that need nothing but values. Must not know how objects arrive
(sources), how they are served (ads) or what Envoy's messages look like (translate).
"""

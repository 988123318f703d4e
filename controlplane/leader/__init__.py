"""What only one replica does in a cluster, and how it is known which: status, webhooks, Leases.

Owns everything that writes to the API server. Must not translate, push or decide about proxies.
"""

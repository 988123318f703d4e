"""A small client of the Kubernetes API: paths, credentials, requests, watches, discovery.

Owns how bytes get to and from an API server. Must not know the model nor what objects mean.
"""

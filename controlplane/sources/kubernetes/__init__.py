"""The Kubernetes source: one reflector for each kind, folded into the steps of one source."""

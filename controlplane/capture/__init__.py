"""Traffic capture: which connections of a pod pass its sidecar, as iptables rules.

Owns the flags of istio-iptables as values (`config`), the rules they mean (`rules`), the text
that loads, replaces and removes them (`render`, `installed`) and the one place that touches the
kernel (`apply`, `routes`, `shell`). Knows nothing of xDS, Envoy configuration or Kubernetes.
"""

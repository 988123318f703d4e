"""CustomResourceDefinitions made from the model's types: `pylot crds`.

A room of its own beside the sources and the translation; it knows the model and nothing else.
"""

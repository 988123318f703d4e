"""The debug endpoints as pure functions: immutable values in, JSON-able data out.

Owns the shapes of istiod's debug output. Must not know HTTP. The rule that is easy to break:
what reads the generator runs first, on the event loop (its memory has one owner); what is
slow, expanding and encoding, is the callable that a view returns, and runs in a thread.
"""

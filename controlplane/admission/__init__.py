"""What the API server asks before it stores an object: the room of the admission webhooks.

Here is what all of them share, and validation; injection has a room of its own on top.
"""

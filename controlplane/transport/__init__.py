"""gRPC over HTTP/2 on asyncio, as a server: as much of both as long-lived streams of bytes need.

Knows nothing of xDS. `server` listens, `protocol` is the asyncio shell of one connection,
`connection` its sans-IO state machine, `stream` one call on it. What comes in is cut into frames by
`incoming`, what goes out waits in `outbox`, and what a client may cost is in `limits`.
"""

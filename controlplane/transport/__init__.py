"""gRPC over HTTP/2 on asyncio, as a server: as much of both as long-lived streams of bytes need.

Knows nothing of xDS. `server` listens, `protocol` is the asyncio shell of one connection,
`connection` its sans-IO state machine (frames, flow control, limits), `stream` one call on it.
"""

"""The one REST scaffolding: what every agent and the controller serve and call.

- `app`: a FastAPI application with problem details, a bearer token on writes and `/healthz`
- `server`: that application inside a running asyncio loop
- `mux`: the paths that switch agents and SMux agents share, as a router over a `MuxService`
- `client`: typed HTTP clients
- `credentials`: the token and the certificates, made at set-up
"""

"""The one REST scaffolding: what every agent and the controller serve and call.

- `app`: a FastAPI application with problem details, guards before its paths, and `/healthz`
- `access`: who may ask for what, and who asks
- `bounds`, `protocol`: what a peer can make a service hold
- `server`: an application inside a running asyncio loop, over mutual TLS or on a Unix socket
- `routers`: the paths that agents share
- `client`: typed HTTP clients
"""

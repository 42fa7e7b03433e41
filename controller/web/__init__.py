"""The web page, and the way from an operator's browser to a controller.

`static/` is built from `web/` by `scripts/page`. The page uses the controller's REST interface and event
stream, and nothing else; what only a testbed can do (fail a node, open a shell in it) it asks of the service
under `/testbed/v1`, where there is one.
"""

DEFAULT_PORT = 8014
"""Where the page is served on the loopback address of the machine, if that port is free."""

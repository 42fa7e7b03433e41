"""Serving the page: a few files of the package, read once."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

STATIC = Path(__file__).with_name("static")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Nothing from elsewhere; the terminal styles its cells inline."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    media_type: str
    tag: str

    @classmethod
    def read(cls, path: Path) -> _File:
        content = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(content, kind, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def add_page(app: FastAPI) -> None:
    """Serve the page at `/` and its files below `/assets/`."""
    files = {path.name: _File.read(path) for path in sorted(STATIC.iterdir()) if path.is_file()}

    def serve(name: str) -> object:
        file = files[name]

        async def endpoint(request: Request) -> Response:
            headers = HEADERS | {"ETag": file.tag}
            if request.headers.get("if-none-match") == file.tag:
                return Response(status_code=304, headers=headers)
            return Response(file.content, media_type=file.media_type, headers=headers)

        return endpoint

    for name in files:
        path = "/" if name == "index.html" else f"/assets/{name}"
        app.add_api_route(path, serve(name), methods=["GET", "HEAD"], include_in_schema=False)  # type: ignore[arg-type]

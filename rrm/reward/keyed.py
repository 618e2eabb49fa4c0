"""Authentication of `rrm serve`: middleware that requires the key on every route. vLLM's own check
covers /v1 only; other routes also run inference or expose the server's state.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "VLLM_API_KEY"
"""The environment variable that holds the key of this process."""
OPEN = "/health"


class KeyRequired:
    """ASGI middleware: 401 for whatever has not the key in $VLLM_API_KEY as its bearer token, but
    for /health."""

    def __init__(self, app: App):
        self.app = app
        self.expected = f"Bearer {os.environ[KEY]}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request: forwards it, or answers 401."""
        if scope["type"] == "lifespan" or self.admits(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send(
                {
                    "type": "http.response.body",
                    "body": b'{"error": {"message": "this server wants its key", "code": 401}}',
                }
            )

    def admits(self, scope: Scope) -> bool:
        """Whether the request is one for /health, or has the key."""
        if scope["type"] == "http" and scope["path"] == OPEN:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self.expected)

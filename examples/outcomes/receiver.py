"""Receives the webhooks of --outcome-hook: checks their signature, and takes each outcome once.

What `take` raises is answered with 503, and the server sends the outcome again. A webhook whose
answer was lost comes twice with one `id`: it is taken once. Use behind a proxy with TLS.
"""

from __future__ import annotations

import hmac
import json
import os
import sys
from collections import OrderedDict
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

MAX_BODY_BYTES = 64 * 1024
REMEMBERED = 10_000
PATIENCE_S = 10.0

Outcome = dict[str, Any]


def serve(take: Callable[[Outcome], None]) -> None:
    """Receive outcomes at HOOK_ADDRESS (127.0.0.1:8080), signed with the key in HOOK_KEY_FILE."""
    host, _, port = os.environ.get("HOOK_ADDRESS", "127.0.0.1:8080").rpartition(":")
    key = Path(os.environ["HOOK_KEY_FILE"]).read_bytes().strip()
    taken: OrderedDict[str, None] = OrderedDict()

    class Handler(BaseHTTPRequestHandler):
        timeout = PATIENCE_S

        def do_POST(self) -> None:
            self.send_response(self.status())
            self.end_headers()

        def status(self) -> int:
            size = self.headers.get("Content-Length", "")
            if not (size.isascii() and size.isdigit()) or int(size) > MAX_BODY_BYTES:
                return 413
            body = self.rfile.read(int(size))
            signature = hmac.digest(key, body, "sha512").hex().encode()
            given = self.headers.get("X-Hook-Signature", "").encode()
            if not hmac.compare_digest(given, signature):
                return 403
            outcome = json.loads(body)
            if outcome["id"] in taken:
                return 204
            try:
                take(outcome)
            except (OSError, ValueError) as error:
                print(f"not taken: {error}", file=sys.stderr)
                return 503
            taken[outcome["id"]] = None
            if len(taken) > REMEMBERED:
                taken.popitem(last=False)
            return 204

    HTTPServer((host, int(port)), Handler).serve_forever()

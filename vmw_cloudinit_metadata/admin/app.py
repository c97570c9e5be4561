"""What the admin port answers: a WSGI application."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

import gevent
import ujson

from vmw_cloudinit_metadata.admin import metrics, views
from vmw_cloudinit_metadata.admin.access import Access
from vmw_cloudinit_metadata.admin.chronicle import Chronicle, Entry
from vmw_cloudinit_metadata.admin.events import Events
from vmw_cloudinit_metadata.happenings import LEVEL_NAMES
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid

log = logging.getLogger(__name__)

PER_PAGE = 100
MAX_PER_PAGE = 1000
_MAX_FIELDS = 16
_MAX_WORDS = 8
_SCANNED_TOGETHER = 1000  # machines; then VMs have their turn

_HEADERS = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
]
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

# The page's own files: they hold no data, and nobody needs a token for them.
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes | Iterator[bytes]
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Fault(Exception):  # noqa: N818 - what is wrong with a request
    """The request cannot be answered, and why."""

    def __init__(self, status: int, text: str, **further: Any) -> None:
        super().__init__(text)
        self.status = status
        self.body = {"error": text, **further}


class App:
    """Reads, and changes nothing. `readiness` tells why no VM can be served now, or ""."""

    def __init__(
        self,
        access: Access,
        chronicle: Chronicle,
        events: Events,
        *,
        readiness: Callable[[], str],
        status: Callable[[], dict[str, Any]],
        metrics_text: Callable[[], bytes],
        catch_up: Callable[[], None],  # on what has happened
    ) -> None:
        self._access = access
        self._chronicle = chronicle
        self._events = events
        self._readiness = readiness
        self._status = status
        self._metrics_text = metrics_text
        self._catch_up = catch_up
        static = files(__package__) / "static"
        self._static = {
            path: Response(200, (static / name).read_bytes(), kind)
            for path, (name, kind) in STATIC.items()
        }
        self._open: dict[str, Callable[[], Response]] = {
            "/healthz": lambda: _text(200, "ok"),
            "/readyz": self._ready,
        }
        self._routes: dict[str, Callable[[Mapping[str, Any]], Response]] = {
            "/metrics": lambda _: Response(200, self._metrics_text(), metrics.CONTENT_TYPE),
            "/api/status": lambda _: _json(200, self._status()),
            "/api/machines": self._machines,
            "/api/events": self._follow,
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        self._catch_up()
        try:
            response = self._answer(environ)
        except Fault as fault:
            response = _json(fault.status, fault.body)
        except Exception:
            log.exception("an error of the admin port")
            response = _json(500, {"error": "an error of the server: its log has the reason"})
        headers = [("Content-Type", response.kind), *_HEADERS, *response.headers]
        body = response.body
        if isinstance(body, bytes):
            headers.append(("Content-Length", str(len(body))))
            body = iter([] if environ["REQUEST_METHOD"] == "HEAD" else [body])
        start_response(f"{response.status} {_REASONS[response.status]}", headers)
        return body

    def _answer(self, environ: dict[str, Any]) -> Response:
        if not self._access.is_right_host(environ.get("HTTP_HOST", "")):
            text = "without a token only a Host of localhost or a loopback address is served"
            raise Fault(403, text)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            response = _json(405, {"error": "only GET and HEAD"})
            return Response(405, response.body, headers=(("Allow", "GET, HEAD"),))
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        if path in self._static:
            return self._static[path]
        if path in self._open:
            return self._open[path]()
        if not self._access.has_token(environ.get("HTTP_AUTHORIZATION", "")):
            response = _json(401, {"error": "needs the token: Authorization: Bearer ..."})
            return Response(401, response.body, headers=(("WWW-Authenticate", "Bearer"),))
        return self._route(path, environ)

    def _route(self, path: str, environ: dict[str, Any]) -> Response:
        if path in self._routes:
            return self._routes[path](environ)
        _, is_machine, name = path.partition("/api/machines/")
        if not is_machine or not name:
            raise Fault(404, "there is no such page")
        return _json(200, views.story(self._machine(name)))

    def _ready(self) -> Response:
        problem = self._readiness()
        return _text(503 if problem else 200, problem or "ready")

    # Machines

    def _machine(self, name: str) -> Entry:
        entry = self._chronicle.get(parse_uuid(name) or name)
        if entry:
            return entry
        every = self._chronicle.named(name)
        named = [entry for entry in every if entry.ports] or every
        if len(named) > 1:
            text = f"{len(named)} machines have this name: ask for one of their ids"
            raise Fault(409, text, machines=[views.row(one) for one in named[:PER_PAGE]])
        if not named:
            raise Fault(404, "no machine with this VC UUID or name was seen since the start")
        return named[0]

    def _machines(self, environ: Mapping[str, Any]) -> Response:
        query = _query(environ)
        state = query.get("state", "")
        if state and state not in views.FILTERS:
            raise Fault(400, f"state: expected one of {', '.join(views.FILTERS)}")
        page = _number(query, "page", 1, 10**6)
        per_page = _number(query, "per_page", PER_PAGE, MAX_PER_PAGE)
        words = query.get("q", "").lower().split()[:_MAX_WORDS]
        total, entries = self._found(state, words, (page - 1) * per_page, per_page)
        listed = {
            "machines": [views.row(entry) for entry in entries],
            "total": total,
            "page": page,
            "per_page": per_page,
            "pages": max(math.ceil(total / per_page), 1),
        }
        return _json(200, listed)

    def _found(
        self, state: str, words: list[str], start: int, count: int
    ) -> tuple[int, list[Entry]]:
        """How many machines a filter finds, and `count` of them from `start` on."""
        if not state and not words:
            entries = islice(self._chronicle.entries(), start, start + count)
            return len(self._chronicle), list(entries)
        found = []
        for number, entry in enumerate(list(self._chronicle.entries()), 1):
            if views.matches(entry, state, words):
                found.append(entry)
            if number % _SCANNED_TOGETHER == 0:
                gevent.sleep(0)
        return len(found), found[start : start + count]

    # Events

    def _follow(self, environ: Mapping[str, Any]) -> Response:
        query = _query(environ)
        levels = {name: level for level, name in LEVEL_NAMES.items()}
        level = query.get("level", "debug")
        if level not in levels:
            raise Fault(400, f"level: expected one of {', '.join(levels)}")
        last = environ.get("HTTP_LAST_EVENT_ID", "")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else None
        follower = self._events.follow(after, levels[level])
        headers = (("X-Accel-Buffering", "no"),)
        return Response(200, self._events.stream(follower), "text/event-stream", headers)


def _json(status: int, body: Any) -> Response:
    return Response(status, ujson.dumps(body, escape_forward_slashes=False).encode())


def _text(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _query(environ: Mapping[str, Any]) -> dict[str, str]:
    try:
        found = parse_qs(environ["QUERY_STRING"], max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise Fault(400, str(error)) from None
    return {name: values[-1] for name, values in found.items()}


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise Fault(400, f"{name}: expected a number from 1 to {most}")
    return int(text)

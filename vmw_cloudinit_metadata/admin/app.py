"""The answers of the admin port.

Five routes in a dictionary: werkzeug's routing, Request and Response would take 4.6 MB and 90 ms of
the serving process, and replace 30 lines; the parser stays ours for its bounds either way.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.resources import files
from itertools import islice
from typing import Any
from urllib.parse import parse_qs, unquote

import gevent
import ujson
from gevent.lock import Semaphore

from vmw_cloudinit_metadata.admin import metrics, views
from vmw_cloudinit_metadata.admin.access import Access
from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.eventstream import Events
from vmw_cloudinit_metadata.admin.machinerecord import MachineRecord
from vmw_cloudinit_metadata.admin.request import Request
from vmw_cloudinit_metadata.monitoring.counters import WEBHOOKS, Hooked, Key
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES
from vmw_cloudinit_metadata.monitoring.kept import short_name
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.protocol.vmware import parse_uuid
from vmw_cloudinit_metadata.protocol.webhook import (
    ACCEPTED,
    INVALID,
    PATH,
    REFUSED,
    UNKNOWN,
    Taken,
    Webhook,
    signing_headers,
)
from vmw_cloudinit_metadata.serving.catalogue import Catalogue

log = logging.getLogger(__name__)

PER_PAGE = 100
MAX_PER_PAGE = 1000
_MAX_FIELDS = 16
_MAX_WORDS = 8

# Filtering all machines, or writing many, takes longer than VMs may wait: it is done in
# slices, one answer at a time.
SLICE_S = 0.001
PAUSE_S = 0.001  # between them; a timer, since what is ready at once comes before the sockets
_TOGETHER = 16  # machines, between two looks at the clock

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
# The page's own files: without data, and so without a token.
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    body: bytes | Generator[bytes, None, None]
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def line(self) -> str:
        return f"{self.status} {HTTPStatus(self.status).phrase}"

    @property
    def all_headers(self) -> list[tuple[str, str]]:
        return [("Content-Type", self.kind), *_HEADERS, *self.headers]


_OUTCOMES: Mapping[int, Hooked] = {
    ACCEPTED: "accepted",
    REFUSED: "refused",
    INVALID: "invalid",
    UNKNOWN: "invalid",
}


class HttpError(Exception):
    """Why a request cannot be answered."""

    def __init__(self, status: int, text: str, **further: Any) -> None:
        super().__init__(text)
        self.status = status
        self.body = {"error": text, **further}


class App:
    """Answers requests; read-only but for webhooks.

    `readiness` returns why no VM can be served now, or "".
    """

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
        catalogue: Catalogue | None,
        hook: Callable[[Webhook], Taken],
    ) -> None:
        self._access = access
        self._chronicle = chronicle
        self._events = events
        self._readiness = readiness
        self._status = status
        self._metrics_text = metrics_text
        self._catch_up = catch_up
        self._catalogue = catalogue
        self._turn = Semaphore(1)
        self._hook = hook
        self._hook_turn = Semaphore(1)
        self._quiet = OnceAMinute()
        self.hooked: Counter[Key] = Counter()
        static = files(__package__) / "static"
        self._static = {
            path: Response(200, (static / name).read_bytes(), kind)
            for path, (name, kind) in STATIC.items()
        }
        self._open: dict[str, Callable[[], Response]] = {
            "/healthz": lambda: _text(200, "ok"),
            "/readyz": self._ready,
        }
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/metrics": lambda _: Response(200, self._metrics_text(), metrics.CONTENT_TYPE),
            "/api/status": lambda _: _json(200, self._status()),
            "/api/machines": self._machines,
            "/api/faults": self._faults,
            "/api/events": self._follow,
        }

    def at_the_door(self, request: Request) -> Response | None:
        """Return the answer if the request needs no token or is rejected; None if `answer`
        decides."""
        if request.path == PATH:
            return self._take_hook(request)
        if not self._access.is_right_host(request.headers.get("host", "")):
            text = "without a token only a Host of localhost or a loopback address is served"
            return refusal(403, text)
        if request.method not in ("GET", "HEAD"):
            return refusal(405, "only GET and HEAD", ("Allow", "GET, HEAD"))
        path = _path(request)
        if path in self._static:
            return self._static[path]
        if path in self._open:
            return self._open[path]()
        if not self._access.has_token(request.headers.get("authorization", "")):
            text = "needs the token: Authorization: Bearer ..."
            return refusal(401, text, ("WWW-Authenticate", "Bearer"))
        return None

    def answer(self, request: Request) -> Response:
        """Answer one request at a time, with a pause for the VMs after each."""
        try:
            with self._turn:
                self._catch_up()
                response = self._route(_path(request), request)
                gevent.sleep(PAUSE_S)
            return response
        except HttpError as error:
            return _json(error.status, error.body)
        except Exception:  # in a greenlet of one client: the others are served
            log.exception("internal error of the admin port")
            return refusal(500, "internal error: see the server log")

    def _route(self, path: str, request: Request) -> Response:
        if path in self._routes:
            return self._routes[path](request)
        _, is_machine, name = path.partition("/api/machines/")
        if not is_machine or not name:
            raise HttpError(404, "no such page")
        return _json(200, views.story(self._machine(name)))

    def _ready(self) -> Response:
        problem = self._readiness()
        return _text(503 if problem else 200, problem or "ready")

    # Webhooks

    def _take_hook(self, request: Request) -> Response:
        """Take a webhook, one at a time. Its signature stands for token and Host."""
        if request.method != "POST":
            return refusal(405, "only POST", ("Allow", "POST"))
        hook = Webhook(signing_headers(request.headers), request.body)
        with self._hook_turn:
            taken = self._hook(hook)
            gevent.sleep(PAUSE_S)
        self.hooked[WEBHOOKS[_OUTCOMES.get(taken.status, "failed")]] += 1
        if taken.status == ACCEPTED:
            return _json(taken.status, {"accepted": True})
        text = taken.text if taken.status < 500 else "it was not taken: send it again"
        more = self._quiet.passes("webhook", taken.status)
        if more is not None:
            log.warning("a webhook was answered with %d: %s%s", taken.status, taken.text, more)
        return refusal(taken.status, text)

    # Machines

    def _machine(self, name: str) -> MachineRecord:
        name = short_name(name)  # as it is kept
        entry = self._chronicle.get(parse_uuid(name) or name)
        if entry:
            return entry
        every = self._chronicle.named(name)
        named = [entry for entry in every if entry.is_connected] or every
        if len(named) > 1:
            text = f"{len(named)} machines have this name: use one of their ids"
            raise HttpError(409, text, machines=[views.row(one) for one in named[:PER_PAGE]])
        if not named:
            raise HttpError(404, "no machine with this VC UUID or name since the server started")
        return named[0]

    def _machines(self, request: Request) -> Response:
        query = _query(request)
        state = query.get("state", "")
        if state and state not in views.FILTERS:
            raise HttpError(400, f"state: expected one of {', '.join(views.FILTERS)}")
        page, per_page = _page_of(query)
        words = query.get("q", "").lower().split()[:_MAX_WORDS]
        total, entries = self._found(state, words, (page - 1) * per_page, per_page)
        rows = [_dumped(views.row(entry)) for entry in _in_slices(entries)]
        return _listed("machines", rows, _about(total, page, per_page))

    def _found(
        self, state: str, words: list[str], start: int, count: int
    ) -> tuple[int, list[MachineRecord]]:
        """Return how many machines match, and `count` of them from `start` on."""
        if not state and not words:
            entries = islice(self._chronicle.entries(), start, start + count)
            return len(self._chronicle), list(entries)
        all_of_them = list(self._chronicle.entries())
        found = [one for one in _in_slices(all_of_them) if views.matches(one, state, words)]
        return len(found), found[start : start + count]

    # Instance files

    def _faults(self, request: Request) -> Response:
        query = _query(request)
        severity = query.get("severity", "")
        if severity not in ("", "fault", "warning"):
            raise HttpError(400, "severity: expected one of fault, warning")
        page, per_page = _page_of(query)
        if not self._catalogue:
            return _listed("faults", [], _about(0, page, per_page) | {"state": "off"})
        rows, start = self._catalogue.rows(severity), (page - 1) * per_page
        about = _about(len(rows), page, per_page) | self._catalogue.summary()
        about["totals"] = {name: about.pop(name) for name in ("faults", "warnings")}
        return _listed("faults", rows[start : start + per_page], about)

    # Events

    def _follow(self, request: Request) -> Response:
        query = _query(request)
        levels = {name: level for level, name in LEVEL_NAMES.items()}
        level = query.get("level", "debug")
        if level not in levels:
            raise HttpError(400, f"level: expected one of {', '.join(levels)}")
        last = request.headers.get("last-event-id", "")
        after = int(last) if last.isascii() and last.isdigit() and len(last) < 19 else None
        headers = (("X-Accel-Buffering", "no"),)
        return Response(200, self._stream(after, levels[level]), "text/event-stream", headers)

    def _stream(self, after: int | None, level: int) -> Generator[bytes, None, None]:
        """Follow the events only when the body is read: a HEAD request reads none."""
        yield from self._events.stream(self._events.follow(after, level))


def refusal(status: int, text: str, *headers: tuple[str, str]) -> Response:
    """Return an error response of the API."""
    return Response(status, _dumped({"error": text}), headers=headers)


def _in_slices(entries: Iterable[MachineRecord]) -> Iterator[MachineRecord]:
    """Yield the same items, with pauses for the VMs."""
    end_s = time.monotonic() + SLICE_S
    for number, entry in enumerate(entries, 1):
        yield entry
        if number % _TOGETHER == 0 and time.monotonic() > end_s:
            gevent.sleep(PAUSE_S)
            end_s = time.monotonic() + SLICE_S


def _about(total: int, page: int, per_page: int) -> dict[str, Any]:
    pages = max(math.ceil(total / per_page), 1)
    return {"total": total, "page": page, "per_page": per_page, "pages": pages}


def _listed(name: str, rows: Iterable[bytes], about: Mapping[str, Any]) -> Response:
    """Return a page of rows, which are JSON already."""
    return Response(200, b'{"%b":[%b],%b' % (name.encode(), b",".join(rows), _dumped(about)[1:]))


def _path(request: Request) -> str:
    return unquote(request.path, errors="replace")


def _dumped(body: Any) -> bytes:
    return ujson.dumps(body, escape_forward_slashes=False).encode()


def _json(status: int, body: Any) -> Response:
    return Response(status, _dumped(body))


def _text(status: int, text: str) -> Response:
    return Response(status, f"{text}\n".encode(), "text/plain; charset=utf-8")


def _query(request: Request) -> dict[str, str]:
    try:
        found = parse_qs(request.query, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    return {name: values[-1] for name, values in found.items()}


def _page_of(query: Mapping[str, str]) -> tuple[int, int]:
    """Return which page is asked for, and how long one is."""
    page = _number(query, "page", 1, 10**6)
    return page, _number(query, "per_page", PER_PAGE, MAX_PER_PAGE)


def _number(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= most):
        raise HttpError(400, f"{name}: expected a number from 1 to {most}")
    return int(text)

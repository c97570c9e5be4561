"""The answers of the admin port.

Five routes in a dictionary: werkzeug's routing, Request and Response would take 4.6 MB and 90 ms of
the serving process, and replace 30 lines; the parser stays ours for its bounds either way.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping
from importlib.resources import files
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import gevent
from gevent.lock import Semaphore

from vmw_cloudinit_metadata.admin import metrics, views
from vmw_cloudinit_metadata.admin.access import Access
from vmw_cloudinit_metadata.admin.api import KEPT, KNOWN_HOSTS_PATH
from vmw_cloudinit_metadata.admin.chronicle import Chronicle
from vmw_cloudinit_metadata.admin.eventstream import Events
from vmw_cloudinit_metadata.admin.fleetview import FleetView
from vmw_cloudinit_metadata.admin.knownhosts import HostEntry, KnownHosts, known_hosts
from vmw_cloudinit_metadata.admin.machinerecord import GONE, MachineRecord
from vmw_cloudinit_metadata.admin.request import Request
from vmw_cloudinit_metadata.admin.response import (
    Response,
    dumped,
    json_response,
    refusal,
    text_response,
)
from vmw_cloudinit_metadata.admin.slices import PAUSE_S, in_slices
from vmw_cloudinit_metadata.monitoring.counters import WEBHOOKS, Hooked, Key
from vmw_cloudinit_metadata.monitoring.jsonobject import LEVEL_NAMES
from vmw_cloudinit_metadata.monitoring.kept import short_name
from vmw_cloudinit_metadata.monitoring.onceaminute import OnceAMinute
from vmw_cloudinit_metadata.process.vcenter.vcenterlink import VcenterLink
from vmw_cloudinit_metadata.protocol.identitydocument import JWKS_PATH, IdentityIssuer
from vmw_cloudinit_metadata.protocol.printable import quoted
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

# A POST with this header: no form of another site's page can send it.
FORGET_PATH = "/api/forget/"
ACTION_HEADER = "x-vmw-metadata-action"
_CALM = "the machine is connected and not in trouble: there is nothing to forget"

PER_PAGE = 100
MAX_PER_PAGE = 1000
_MAX_FIELDS = 16
_MAX_WORDS = 8

# The page's own files: without data, and so without a token.
STATIC = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/elements.js": ("elements.js", "text/javascript; charset=utf-8"),
    "/panels.js": ("panels.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


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


class MachineQuery(NamedTuple):
    """Which machines a request lists."""

    state: str  # or a group of states; "" for all
    words: list[str]  # that occur in each, in lower case
    server: str  # its name, of a fleet; "" for all
    page: int
    per_page: int

    @property
    def start(self) -> int:
        return (self.page - 1) * self.per_page


class App:
    """Answers requests; read-only but for webhooks.

    `readiness` returns why no VM can be served now, or ""; `remark` what is missing all the same.
    """

    def __init__(
        self,
        access: Access,
        chronicle: Chronicle,
        events: Events,
        known: KnownHosts,
        *,
        readiness: Callable[[], str],
        remark: Callable[[], str],
        status: Callable[[], dict[str, Any]],
        metrics_text: Callable[[], bytes],
        catch_up: Callable[[], None],  # on what has happened
        catalogue: Catalogue | None,
        vcenter: VcenterLink | None,
        hook: Callable[[Webhook], Taken],
        issuer: Callable[[], IdentityIssuer | None],
        fleet: FleetView | None = None,
    ) -> None:
        self._access = access
        self._chronicle = chronicle
        self._events = events
        self._known = known
        self._readiness = readiness
        self._remark = remark
        self._status = status
        self._metrics_text = metrics_text
        self._catch_up = catch_up
        self._catalogue = catalogue
        self._fleet = fleet
        self._filters = (*views.FILTERS, GONE) if fleet else views.FILTERS
        self._vcenter = vcenter
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
            "/healthz": lambda: text_response(200, "ok"),
            "/readyz": self._ready,
            JWKS_PATH: lambda: _keys(issuer()),
        }
        self._routes: dict[str, Callable[[Request], Response]] = {
            "/metrics": lambda _: Response(200, self._metrics_text(), metrics.CONTENT_TYPE),
            "/api/status": lambda _: json_response(200, self._status() | self._scope("server")),
            "/api/machines": self._machines,
            "/api/faults": self._faults,
            KNOWN_HOSTS_PATH: lambda asked: _known_hosts(asked, known, chronicle),
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
        path = _path(request)
        forgets = path.startswith(FORGET_PATH)
        methods = ("POST",) if forgets else ("GET", "HEAD")
        if request.method not in methods:
            return refusal(405, f"only {' and '.join(methods)}", ("Allow", ", ".join(methods)))
        if forgets and request.headers.get(ACTION_HEADER) != "forget":
            text = (
                "needs the header X-VMW-Metadata-Action: forget, which no form of a page can send"
            )
            return refusal(403, text)
        if path in self._static:
            return self._static[path]
        if path in self._open:
            return self._open[path]()
        if not self._access.has_token(request.headers.get("authorization", "")):
            text = "needs the token: Authorization: Bearer ..."
            return refusal(401, text, ("WWW-Authenticate", "Bearer"))
        return None

    def answer(self, request: Request) -> Response:
        """Answer one request at a time, with a pause for the VMs after each. What waits for the
        database of a fleet has no turn, so it delays no other request."""
        try:
            path = _path(request)
            response = self._of_fleet(self._fleet, path, request) if self._fleet else None
            if response is None:
                with self._turn:
                    self._catch_up()
                    response = self._route(path, request)
                    gevent.sleep(PAUSE_S)
            return response
        except HttpError as error:
            return json_response(error.status, error.body)
        except Exception:  # in a greenlet of one client: the others are served
            log.exception("internal error of the admin port")
            return refusal(500, "internal error: see the server log")

    def _route(self, path: str, request: Request) -> Response:
        if path in self._routes:
            return self._routes[path](request)
        if path.startswith(FORGET_PATH):
            return self._forget(path.removeprefix(FORGET_PATH))
        name = _machine_in(path)
        if not name:
            raise HttpError(404, "no such page")
        return json_response(200, views.story(self._machine(name), self._vcenter))

    def _ready(self) -> Response:
        problem = self._readiness()
        if problem:
            return text_response(503, problem)
        remark = self._remark()
        return text_response(200, f"ready\n{remark}" if remark else "ready")

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
            return json_response(taken.status, {"accepted": True})
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
            raise _ambiguous(len(named), [self._row(one) for one in named[:PER_PAGE]])
        if not named:
            raise HttpError(404, "no machine with this VC UUID or name since the server started")
        return named[0]

    def _forget(self, name: str) -> Response:
        entry = self._machine(name)
        if not self._chronicle.forget(entry.key):
            raise HttpError(409, _CALM)
        if not self._chronicle.get(entry.key):
            self._known.forget(entry.key)
        return self._has_forgotten(entry.key, "server")

    def _has_forgotten(self, key: str, scope: str) -> Response:
        log.info("admin: forgotten: %s", quoted(key))
        return json_response(200, {"forgotten": key} | self._scope(scope))

    def _machines(self, request: Request) -> Response:
        listing = self._listing(request)
        total, entries = self._found(listing)
        further = {"server": self._fleet.server} if self._fleet else {}
        rows = [dumped(self._row(entry) | further) for entry in in_slices(entries)]
        about = _about(total, listing.page, listing.per_page)
        return _listed("machines", rows, about | self._scope("server"))

    def _row(self, entry: MachineRecord) -> dict[str, Any]:
        return views.row(entry, self._vcenter)

    def _listing(self, request: Request) -> MachineQuery:
        query = _query(request)
        state = query.get("state", "")
        if state and state not in self._filters:
            raise HttpError(400, f"state: expected one of {', '.join(self._filters)}")
        words = query.get("q", "").lower().split()[:_MAX_WORDS]
        return MachineQuery(state, words, query.get("server", ""), *_page_of(query))

    def _found(self, listing: MachineQuery) -> tuple[int, list[MachineRecord]]:
        """Return how many machines match, and those of the page."""
        start, end = listing.start, listing.start + listing.per_page
        state, words = listing.state, listing.words
        if self._fleet and listing.server not in ("", self._fleet.server):
            return 0, []
        if not state and not words:
            return len(self._chronicle), list(islice(self._chronicle.entries(), start, end))
        all_of_them = list(self._chronicle.entries())
        found = [one for one in in_slices(all_of_them) if views.matches(one, state, words)]
        return len(found), found[start:end]

    # The fleet

    def _scope(self, scope: str) -> dict[str, Any]:
        """Return what says whose machines are shown."""
        return {"scope": scope} if self._fleet else {}

    def _of_fleet(self, fleet: FleetView, path: str, request: Request) -> Response | None:
        """Return what the fleet's database says; None if it says nothing of this, or not in
        time."""
        if path == "/api/status":
            summary = fleet.summary()
            if summary is None:
                return None
            self._catch_up()
            return json_response(200, self._status() | summary | self._scope("fleet"))
        if path == KNOWN_HOSTS_PATH:
            return _known_hosts_of_fleet(fleet, request)
        if path == "/api/machines":
            return self._page_of_fleet(fleet, self._listing(request))
        if path.startswith(FORGET_PATH):
            return self._forget_in_fleet(fleet, path.removeprefix(FORGET_PATH))
        name = _machine_in(path)
        return self._machine_of_fleet(fleet, name) if name else None

    def _page_of_fleet(self, fleet: FleetView, listing: MachineQuery) -> Response | None:
        fields = listing._asdict() | {"start": listing.start, "count": listing.per_page}
        found = fleet.page(fields)
        if found is None:
            return None
        total, rows = found
        about = _about(total, listing.page, listing.per_page)
        return _listed("machines", [rows[1:-1]], about | self._scope("fleet"))

    def _machine_of_fleet(self, fleet: FleetView, name: str) -> Response | None:
        """Return what the database knows of a machine, and what only this server knows."""
        name = short_name(name)
        found = fleet.machine(parse_uuid(name) or name)
        if found is None or not found.number:
            return None
        if found.number > 1:
            raise _ambiguous(found.number, found.body)
        entry = self._chronicle.get(found.body["id"]) if found.is_own else None
        if entry is None:
            return json_response(200, found.body)
        self._catch_up()
        return json_response(200, found.body | views.story(entry, self._vcenter))

    def _forget_in_fleet(self, fleet: FleetView, name: str) -> Response | None:
        """Forget a machine at all servers; None: the database does not say so in time, or does not
        know the machine."""
        name = short_name(name)
        reply = fleet.forget(parse_uuid(name) or name)
        if reply is None or not reply.fields["count"]:
            return None
        if reply.fields["count"] > 1:
            raise _ambiguous(reply.fields["count"], [])
        if reply.fields["is_calm"]:
            raise HttpError(409, _CALM)
        key = str(reply.fields["id"])
        self._catch_up()
        self._chronicle.forget(key)
        self._known.forget(key)
        return self._has_forgotten(key, "fleet")

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
        seen = request.headers.get("last-event-id", "")
        after = int(seen) if seen.isascii() and seen.isdigit() and len(seen) < 19 else None
        last = _number(query, "last", 0, KEPT, least=0)
        headers = (("X-Accel-Buffering", "no"),)
        return Response(200, self._stream(after, levels[level], last), "text/event-stream", headers)

    def _stream(self, after: int | None, level: int, last: int) -> Generator[bytes, None, None]:
        """Follow the events only when the body is read: a HEAD request reads none."""
        yield from self._events.stream(self._events.follow(after, level, last))


def _known_hosts(request: Request, known: KnownHosts, chronicle: Chronicle) -> Response:
    def is_connected(key: str) -> bool:
        record = chronicle.get(key)
        return record is not None and record.is_connected

    return _known_hosts_of(request, list(in_slices(known.entries())), is_connected)


def _known_hosts_of_fleet(fleet: FleetView, request: Request) -> Response | None:
    found = fleet.known_hosts()
    if found is None:
        return None
    connected = {entry.key for entry, is_connected in found if is_connected}
    return _known_hosts_of(request, [entry for entry, _ in found], connected.__contains__)


def _known_hosts_of(
    request: Request, entries: list[HostEntry], is_connected: Callable[[str], bool]
) -> Response:
    if _number(_query(request, has_blanks=True), "proved", 0, 1, least=0):
        entries = [entry for entry in entries if entry.proof]
    body = known_hosts(entries, is_connected)
    return Response(200, body, "text/plain; charset=utf-8")


def _about(total: int, page: int, per_page: int) -> dict[str, Any]:
    pages = max(math.ceil(total / per_page), 1)
    return {"total": total, "page": page, "per_page": per_page, "pages": pages}


def _listed(name: str, rows: Iterable[bytes], about: Mapping[str, Any]) -> Response:
    """Return a page of rows, which are JSON already."""
    return Response(200, b'{"%b":[%b],%b' % (name.encode(), b",".join(rows), dumped(about)[1:]))


def _machine_in(path: str) -> str:
    """Return the id or name in the path of one machine; "" if it is another path."""
    return path.partition("/api/machines/")[2]


def _ambiguous(number: int, rows: list[dict[str, Any]]) -> HttpError:
    text = f"{number} machines have this name: use one of their ids"
    return HttpError(409, text, machines=rows)


def _path(request: Request) -> str:
    return unquote(request.path, errors="replace")


def _keys(issuer: IdentityIssuer | None) -> Response:
    if issuer is None:
        return refusal(404, "no keys: the server has no --identity-signing-key")
    return Response(200, issuer.jwks, "application/jwk-set+json")


def _query(request: Request, *, has_blanks: bool = False) -> dict[str, str]:
    """Return the parameters; those without a value only if they may not be taken for absent."""
    try:
        found = parse_qs(request.query, has_blanks, max_num_fields=_MAX_FIELDS)
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    return {name: values[-1] for name, values in found.items()}


def _page_of(query: Mapping[str, str]) -> tuple[int, int]:
    """Return which page is asked for, and how long one is."""
    page = _number(query, "page", 1, 10**6)
    return page, _number(query, "per_page", PER_PAGE, MAX_PER_PAGE)


def _number(query: Mapping[str, str], name: str, default: int, most: int, *, least: int = 1) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise HttpError(400, f"{name}: expected a number from {least} to {most}")
    return int(text)

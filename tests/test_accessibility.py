"""The status page, with no, few and many machines, and the report of a load test, as axe-core sees
them: light and dark, on a wall and on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import make_instances
from tests.process import ServerProcess, run
from tests.test_admin import QUICK, Admin, boot, uuid
from tests.test_page import (  # noqa: F401 - two fixtures
    EACH_SCHEME,
    EACH_SIZE,
    FAINT,
    MANY,
    SIZES,
    Open,
    browser,
    open_page,
)
from tests.test_report import OVERFLOW, WITH_FAILURES
from tests.vm import Vm
from tests.waiting import wait_until
from vmw_cloudinit_metadata.client.report.page import render

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

# By the protocol of the browser, since the page's policy admits no script of others.
RUN = "async () => (await axe.run()).violations"
SERIOUS = ("serious", "critical")
LONG_LIST_S = 60


@pytest.fixture(scope="session")
def axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text()


def findings(page: Page, axe: str) -> list[str]:
    """Return what is serious, with the elements."""
    page.evaluate(axe)
    found: list[dict[str, Any]] = page.evaluate(RUN)
    return [
        f"{one['impact']}: {one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}"
        for one in found
        if one["impact"] in SERIOUS
    ]


@pytest.fixture(scope="module", params=[0, 3, MANY], ids=lambda number: f"{number} machines")
def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Admin, int]]:
    """A server with so many machines; of three, one got nothing, and one is a test."""
    instances = make_instances(tmp_path_factory.mktemp("axe") / "instances")
    for number in range(3 if request.param else 0):
        file = instances / f"bad{number}.yaml"
        file.write_text(f"metadata: {{}}\nnetwork:\n  address: nonsense{number}\n")
    options = ("--admin-listen", "127.0.0.1:0", "--catalogue", "--max-per-host", "10000")
    server = ServerProcess(instances, *options, command=QUICK)
    admin = Admin(server)
    machines: list[Vm] = []
    if request.param:
        machines = [boot(server, "nobody", vc_uuid=uuid(1)), boot(server, "web1", vc_uuid=uuid(2))]
        server_of = ("--server", f"127.0.0.1:{server.port}", "--uri", "my-metadata")
        run("client", "fetch", "web1", "--vc-uuid", uuid(3), *server_of)
    for number in range(3, request.param):
        machine = Vm(server.port, "web1", vc_uuid=uuid(number + 1))
        machine.send(b"!!REQUEST_METADATA#\n")
        machines.append(machine)
    wait_until(lambda: admin.json("/api/status")["total"] == request.param, LONG_LIST_S)
    wait_until(lambda: admin.json("/api/faults")["state"] == "complete")
    yield admin, request.param
    for machine in machines:
        machine.close()
    server.end()


@EACH_SIZE
@EACH_SCHEME
def test_page_is_accessible(
    scene: tuple[Admin, int],
    open_page: Open,  # noqa: F811
    axe: str,
    size: str,
    scheme: str,
) -> None:
    admin, number = scene
    shown = open_page(admin, size, scheme)
    shown.wait_for_title(f"{number:,} machines")
    assert findings(shown.page, axe) == []
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert shown.page.evaluate(FAINT) == []
    if not number:
        return
    shown.page.locator("#faults summary").click()
    shown.page.get_by_text("nobody", exact=True).click()
    shown.page.locator(".advice").wait_for()
    assert findings(shown.page, axe) == []
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert shown.page.evaluate(FAINT) == []


def test_axe_finds_what_is_wrong(
    open_page: Open,  # noqa: F811
    axe: str,
    start: Callable[..., Any],
) -> None:
    shown = open_page(Admin(start()))
    shown.wait_for_title("0 machines")
    shown.page.evaluate("""() => document.querySelector("#search").removeAttribute("aria-label")""")
    shown.page.evaluate("""() => document.querySelector("#search").placeholder = "" """)
    assert any("label" in one for one in findings(shown.page, axe))


def test_token_is_asked_for_accessibly(
    open_page: Open,  # noqa: F811
    axe: str,
    start: Callable[..., Any],
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text("correct-horse-battery-staple")
    shown = open_page(Admin(start("--admin-token-file", str(file))))
    shown.page.get_by_label("Enter the token of this server").wait_for()
    assert findings(shown.page, axe) == []


@EACH_SIZE
@EACH_SCHEME
def test_report_is_accessible(
    browser: Any,  # noqa: F811
    axe: str,
    tmp_path: Path,
    size: str,
    scheme: str,
) -> None:
    file = tmp_path / "report.html"
    file.write_text(render(WITH_FAILURES | {"command": "client storm", "environment": {"a": "b"}}))
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    try:
        page.goto(file.as_uri())
        assert findings(page, axe) == []
    finally:
        page.close()

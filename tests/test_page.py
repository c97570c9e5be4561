"""The status page in a real browser, of a real server."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import make_instances
from tests.process import ServerProcess, run, with_constants
from tests.test_admin import QUICK, Admin, boot, canonical, uuid
from tests.test_boot_outcomes import booted, report, wait_for_state
from tests.test_report import OVERFLOW, QUIET
from tests.vm import LIMIT_S, Vm
from tests.waiting import wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.slow

LIMIT_MS = 1000 * LIMIT_S
SIZES = {"phone": (390, 844), "wall": (1920, 1080)}
EACH_SIZE = pytest.mark.parametrize("size", SIZES)
EACH_SCHEME = pytest.mark.parametrize("scheme", ["light", "dark"])

HOSTILE = (
    '<img src=x onerror="window.ran=1"><script>window.ran=1</script>'
    "'\"><svg onload=window.ran=1>\u202e{{x}}"
)
HOSTILE_FILE = "<img src=x onerror=window.ran=1>'\"\u202e"
TOKEN = "correct-horse-battery-staple"
MANY = 5000

# WCAG 2: 4.5 to 1 for the letters of every element against what lies behind it.
FAINT = """() => {
    const channels = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = colour => channels(colour).slice(0, 3).map(c => c / 255)
        .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const own = node => [...node.childNodes].some(n => n.nodeType == 3 && n.data.trim());
    const ground = node => {
        const colour = getComputedStyle(node).backgroundColor;
        return channels(colour)[3] === 0 ? ground(node.parentElement) : colour;
    };
    return [...document.querySelectorAll("body *")]
        .filter(node => own(node) && node.getClientRects().length && !node.disabled)
        .filter(node => contrast(light(getComputedStyle(node).color), light(ground(node))) < 4.5)
        .map(node => node.textContent);
}"""
# The longest time that the page did nothing for its user, while `seconds` went by.
LONGEST_PAUSE = """seconds => new Promise(done => {
    let longest = 0, last = performance.now();
    const end = last + 1000 * seconds;
    const frame = now => {
        longest = Math.max(longest, now - last);
        last = now;
        now < end ? requestAnimationFrame(frame) : done(longest);
    };
    requestAnimationFrame(frame);
})"""
LONG_TASKS = """() => {
    window.longTasks = [];
    new PerformanceObserver(list => window.longTasks.push(
        ...list.getEntries().map(entry => entry.duration))).observe({entryTypes: ["longtask"]});
}"""


@dataclass
class Shown:
    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def names(self) -> list[str]:
        return self.page.locator(".machine .name").all_text_contents()

    def wait_for_title(self, text: str) -> None:
        """What stands above the list."""
        self.page.locator("#machines-title").get_by_text(text, exact=True).wait_for()

    def wait_for_text(self, text: str) -> None:
        self.page.get_by_text(text, exact=False).first.wait_for()


@pytest.fixture(scope="module")
def browser(program: Callable[[str, str], str]) -> Iterator[Any]:
    path = program("chromium", "chromium")
    from playwright.sync_api import sync_playwright  # slow: only where it is used

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET, timeout=60_000)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Shown]]:
    """Opens the page of a server in a window of its own."""
    windows = []

    def open_(admin: Admin, size: str = "wall", scheme: str = "light", path: str = "/") -> Shown:
        width, height = SIZES[size]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        windows.append(page)
        page.set_default_timeout(LIMIT_MS)
        shown = Shown(page)
        page.on("request", lambda request: shown.requests.append(request.url))
        page.on("console", lambda message: shown.complaints.append(message.text))
        page.on("pageerror", lambda error: shown.complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{admin.port}{path}")
        return shown

    yield open_
    for page in windows:
        page.close()


Open = Callable[..., Shown]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    """A server with some VMs, three of them in trouble."""
    instances = make_instances(tmp_path_factory.mktemp("page") / "instances")
    (instances / "bad.yaml").write_text("metadata: {}\nnetwork:\n  address: nonsense\n")
    (instances / f"{HOSTILE_FILE}.yaml").write_text("metadata: {}\nx: 1\n")
    server = ServerProcess(instances, "--admin-listen", "127.0.0.1:0", "--catalogue", command=QUICK)
    admin = Admin(server)
    machines = [boot(server, "web1", vc_uuid=uuid(number)) for number in range(30)]
    machines += [boot(server, "bad", vc_uuid=uuid(100)), boot(server, HOSTILE, vc_uuid=uuid(101))]
    machines.append(boot(server, "nobody", vc_uuid=uuid(102)))
    wait_until(lambda: admin.json("/api/status")["machines"]["served"] == 30)
    yield admin
    for machine in machines:
        machine.close()
    server.end()


@EACH_SIZE
@EACH_SCHEME
def test_page_fits_is_legible_and_asks_nobody_else(
    scene: Admin, open_page: Open, size: str, scheme: str
) -> None:
    shown = open_page(scene, size, scheme)
    shown.page.locator(".machine").first.wait_for()
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert shown.page.evaluate(FAINT) == []
    shown.page.get_by_text("nobody", exact=True).click()
    shown.page.locator(".advice").wait_for()
    assert shown.page.evaluate(OVERFLOW) <= 0
    assert shown.page.evaluate(FAINT) == []
    origin = f"http://127.0.0.1:{scene.port}/"
    assert [url for url in shown.requests if not url.startswith(origin)] == []
    assert shown.complaints == []


def test_machines_in_trouble_come_first_with_their_reason(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene)
    shown.wait_for_text("Ready, 3 machines are in trouble")
    shown.wait_for_title("33 machines")
    assert set(shown.names()[:3]) == {"bad", "nobody", HOSTILE}
    shown.wait_for_text("bad.yaml:3: network.address")


def test_click_shows_a_machines_story_and_what_to_do(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene)
    shown.page.get_by_text("bad", exact=True).click()
    advice = shown.page.locator(".advice")
    advice.wait_for()
    assert "bad.yaml:3: network.address" in advice.inner_text()
    assert "Fix the file at the line shown" in advice.inner_text()
    assert "METADATA: invalid" in shown.page.locator("#story").inner_text()
    shown.page.keyboard.press("Escape")
    assert shown.page.locator("#story").is_hidden()


def test_story_can_be_opened_by_its_address(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene, path="/#nobody")
    shown.page.locator(".advice").wait_for()
    assert "Add the file" in shown.page.locator(".advice").inner_text()


def test_search_and_tiles_narrow_the_list(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene)
    shown.page.locator(".machine").first.wait_for()
    shown.page.get_by_label("Search machines").fill("NOBODY")
    shown.wait_for_title("1 machine")
    assert shown.names() == ["nobody"]
    shown.page.get_by_label("Search machines").fill("")
    shown.page.get_by_role("button", name="in trouble").click()
    shown.wait_for_title("3 machines")
    assert len(shown.names()) == 3


def test_hostile_name_is_text(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene)
    row = shown.page.locator(".machine .name", has_text="onerror")
    row.wait_for()
    assert row.text_content() == HOSTILE  # it may be laid out later
    row.click()
    shown.page.locator(".advice").wait_for()
    assert shown.page.locator("#story-name").inner_text() == HOSTILE
    assert shown.page.locator("img, script:not([src]), svg[onload]").count() == 0
    assert shown.page.evaluate("window.ran") is None
    assert shown.complaints == []


def test_what_a_guest_reports_of_its_boot_is_text(
    start: Callable[..., ServerProcess], open_page: Open
) -> None:
    server = start()
    with closing(booted(server)) as machine:
        report(machine, errors=[HOSTILE.removesuffix("\u202e{{x}}")])
        wait_for_state(Admin(server), "broken")
        shown = open_page(Admin(server), path="/#web1")
        shown.page.locator(".advice").wait_for()
        story = shown.page.locator("#story").inner_text()
    assert "boot failed" in story
    assert "Errors\n<img src=x onerror=" in story
    assert "Host keys\nssh-ed25519" in story
    assert shown.page.locator("img, script:not([src]), svg[onload]").count() == 0
    assert shown.page.evaluate("window.ran") is None
    assert shown.complaints == []


def test_settings_name_where_outcomes_are_told_and_recorded(
    start: Callable[..., ServerProcess], open_page: Open, tmp_path: Path
) -> None:
    key, ledger = tmp_path / "key", tmp_path / "ledger"
    key.write_text("k" * 32)
    hook = ("--outcome-hook", "http://127.0.0.1:1/x?s3cret", "--outcome-hook-key-file", str(key))
    shown = open_page(Admin(start(*hook, "--ledger", str(ledger))))
    shown.wait_for_text("Safe to restart")
    settings = shown.page.locator("#settings").inner_text()
    assert "Outcome hook\nhttp://127.0.0.1:1/x\n" in f"{settings}\n"
    assert f"--ledger\n{ledger}" in settings
    assert "s3cret" not in settings


def test_faults_of_files_are_listed_with_their_remedy_and_vms(
    scene: Admin, open_page: Open
) -> None:
    wait_until(lambda: scene.json("/api/faults")["state"] == "complete")
    shown = open_page(scene)
    fault = shown.page.locator("#faults li", has_text="bad.yaml:3")
    fault.wait_for()
    assert "network.address: found 'nonsense'" in fault.inner_text()
    assert "expected an IP address such as" in fault.inner_text()
    assert "VMs: bad" in fault.inner_text()
    hostile = shown.page.locator("#faults li", has_text="onerror").first
    assert "<img src=x onerror=window.ran=1>'\"\\u202e" in hostile.inner_text()
    assert shown.page.locator("img, script:not([src])").count() == 0
    assert shown.page.evaluate("window.ran") is None
    tile = shown.page.get_by_role("button", name="faulty files")
    assert tile.inner_text().split() == ["2", "faulty", "files"]
    tile.click()
    assert shown.page.evaluate("document.activeElement.id") == "files-title"
    assert shown.complaints == []


def test_files_that_could_not_be_read_are_not_shown_as_without_faults(
    open_page: Open, start: Callable[..., ServerProcess]
) -> None:
    command = with_constants(serving__surveyprocess__PROGRAM="nowhere")
    admin = Admin(start("--admin-listen", "127.0.0.1:0", "--catalogue", command=command))
    wait_until(lambda: admin.json("/api/faults")["state"] == "failed")
    shown = open_page(admin)
    about = shown.page.locator("#files-about", has_text="not read: it has ended with 1: ")
    about.wait_for()
    tile = shown.page.get_by_role("button", name="faulty files")
    assert tile.inner_text().split() == ["\u2013", "faulty", "files"]
    assert tile.get_attribute("data-tone") == ""


def test_script_put_in_by_force_is_refused(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene)
    with shown.page.expect_console_message(lambda one: "Content Security Policy" in one.text):
        shown.page.evaluate(
            """() => {
                const script = document.createElement("script");
                script.textContent = "window.ran = 1";
                document.body.append(script);
            }"""
        )
    assert shown.page.evaluate("window.ran") is None


def test_token_is_asked_for_once_and_kept_for_the_session(
    start: Callable[..., ServerProcess], tmp_path: Path, open_page: Open
) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN)
    server = start("--admin-token-file", str(file), command=QUICK)
    shown = open_page(Admin(server))
    field_ = shown.page.get_by_label("Enter the token of this server")
    field_.fill("wrong")
    shown.page.get_by_role("button", name="Open").click()
    shown.wait_for_text("Wrong token.")
    field_.fill(TOKEN)
    shown.page.get_by_role("button", name="Open").click()
    shown.wait_for_text("Ready: VMs are served")
    wait_until(lambda: Admin(server, TOKEN).json("/api/status")["followers"])
    machine = boot(server, "nobody")
    shown.page.locator(".machine .name", has_text="nobody").wait_for()
    shown.page.reload()
    shown.wait_for_text("1 machine is in trouble")
    assert TOKEN not in shown.page.url
    machine.close()


def test_server_that_is_away_is_said_and_its_return_is_seen(
    start: Callable[..., ServerProcess], open_page: Open
) -> None:
    server = start()
    admin = Admin(server)
    shown = open_page(admin)
    shown.wait_for_text("Ready: VMs are served")
    server.end()
    shown.wait_for_text("The server does not answer")
    shown.wait_for_text("The data below is from ")
    start("--admin-listen", f"127.0.0.1:{admin.port}")
    shown.wait_for_text("Ready: VMs are served")


def test_page_with_5000_machines_stays_fluid_and_shows_a_failure_within_2_s(
    start: Callable[..., ServerProcess], open_page: Open, peers: ExitStack
) -> None:
    server = start("--max-per-host", "10000", command=QUICK)
    admin = Admin(server)
    for number in range(MANY):
        machine = Vm(server.port, "web1", vc_uuid=uuid(number))
        machine.send(b"!!REQUEST_METADATA#\n")
        peers.callback(machine.close)
    wait_until(lambda: admin.json("/api/status")["machines"]["served"] == MANY, 60)
    shown = open_page(admin)
    shown.wait_for_title("5,000 machines")
    shown.page.evaluate(LONG_TASKS)
    shown.page.mouse.wheel(0, 3000)
    peers.callback(boot(server, "web1", vc_uuid=uuid(MANY)).close)
    pause_ms = shown.page.evaluate(LONGEST_PAUSE, 5)
    shown.page.get_by_label("Search machines").fill(f"{4321:012x}")
    shown.wait_for_title("1 machine")
    shown.page.get_by_label("Search machines").fill("")
    shown.wait_for_title("5,001 machines")
    asked_s = time.monotonic()
    peers.callback(boot(server, "got-nothing", vc_uuid=uuid(MANY + 1)).close)
    shown.page.locator(".machine .name", has_text="got-nothing").wait_for()
    took_s = time.monotonic() - asked_s
    tasks = shown.page.evaluate("window.longTasks")
    print(f"longest frame {pause_ms:.0f} ms, long tasks {tasks}, failure seen in {took_s:.2f} s")
    assert took_s < 2
    assert pause_ms < 250
    assert max(tasks, default=0) < 250


def test_machine_that_has_left_says_what_became_of_it(
    start: Callable[..., ServerProcess], open_page: Open
) -> None:
    server = start(command=QUICK)
    admin = Admin(server)
    boot(server, "web1", vc_uuid=uuid(1)).close()
    silent = Vm(server.port, "web1", vc_uuid=uuid(2))
    wait_until(lambda: admin.json("/api/status")["machines"]["waiting"] == 1)
    silent.close()
    wait_until(lambda: admin.json("/api/status")["machines"]["left"] == 2)
    shown = open_page(admin)
    shown.wait_for_title("2 machines")
    badges = {
        row.get_attribute("data-id"): row.locator(".chip").text_content()
        for row in shown.page.locator("#list li").all()
    }
    assert badges == {canonical(1): "got its data, disconnected", canonical(2): "never asked"}
    assert shown.page.locator("#columns").inner_text().split("\n")[:2] == ["State", "VM"]


def test_test_is_marked_and_no_trouble(
    start: Callable[..., ServerProcess], open_page: Open
) -> None:
    server = start()
    server_of = ("--server", f"127.0.0.1:{server.port}", "--uri", "my-metadata")
    run("client", "fetch", "nobody", *server_of)
    shown = open_page(Admin(server))
    shown.wait_for_text("Ready: VMs are served")
    row = shown.page.locator(".machine", has_text="nobody")
    row.wait_for()
    assert row.locator(".chip").text_content() == "test"
    tile = shown.page.get_by_role("button", name="tests")
    assert tile.inner_text().split() == ["1", "tests"]


def test_vm_whose_user_data_window_is_closed_is_no_trouble(
    start: Callable[..., ServerProcess], open_page: Open, tmp_path: Path
) -> None:
    server = start("--ledger", str(tmp_path / "ledger"), "--userdata-window", "0.5")
    admin = Admin(server)
    with closing(Vm(server.port, "web1", vc_uuid=uuid(1))) as vm:
        wait_until(lambda: vm.ask("USERDATA")[0] == "RESPONSE_ERROR")
    shown = open_page(admin, path=f"/#{canonical(1)}")
    shown.page.get_by_role("heading", name="Identity").wait_for()
    story = shown.page.locator("#story").inner_text()
    assert re.search("User-data\\s+user-data window closed at 20", story), story
    shown.wait_for_text("Ready: VMs are served")


@pytest.mark.parametrize("is_connected", [False, True], ids=["left", "connected"])
def test_machine_is_forgotten_by_its_button(
    start: Callable[..., ServerProcess], open_page: Open, peers: ExitStack, *, is_connected: bool
) -> None:
    server = start(command=QUICK)
    admin = Admin(server)
    vm = boot(server, "nobody", vc_uuid=uuid(1))
    peers.callback(vm.close)
    wait_until(lambda: admin.state_of("nobody") == "failed")
    if not is_connected:
        vm.close()
        wait_until(lambda: not admin.machines()[0]["connected"])
    shown = open_page(admin, path=f"/#{canonical(1)}")
    text = "Dismiss this trouble" if is_connected else "Forget this machine"
    shown.page.get_by_role("button", name=text).click()
    shown.wait_for_text("Ready: VMs are served")
    shown.page.locator("#story").wait_for(state="hidden")
    shown.wait_for_title("1 machine" if is_connected else "0 machines")
    assert shown.complaints == []


def test_empty_page_says_what_to_do_next(
    start: Callable[..., ServerProcess], open_page: Open
) -> None:
    shown = open_page(Admin(start()))
    shown.wait_for_text("No VM has connected yet.")
    command = shown.page.locator(".command code").first.inner_text()
    assert command == "vmw-cloudinit-metadata client fetch web1 --uri my-metadata"
    shown.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.page.locator(".copy").first.click()
    shown.page.get_by_text("Copied", exact=True).wait_for()
    assert shown.page.evaluate("navigator.clipboard.readText()") == command


def test_hostile_name_stands_in_no_command(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene, path=f"/#{canonical(101)}")
    shown.page.locator(".advice").wait_for()
    commands = shown.page.locator(".advice code").all_inner_texts()
    assert len(commands) == 2
    assert all(canonical(101) in command for command in commands)


def test_machine_without_a_vc_uuid_is_shown_by_its_bios_uuid(
    start: Callable[..., ServerProcess], open_page: Open
) -> None:
    server = start(command=QUICK)
    with closing(boot(server, HOSTILE, vc_uuid=None, bios_uuid=uuid(7))):
        wait_until(lambda: Admin(server).json("/api/status")["machines"]["failed"] == 1)
        shown = open_page(Admin(server), path=f"/#{canonical(7)}")
        shown.page.locator(".advice").wait_for()
        commands = shown.page.locator(".advice code").all_inner_texts()
    assert commands == [
        f"vmw-cloudinit-metadata show --explain --bios-uuid {canonical(7)}",
        f"vmw-cloudinit-metadata status {canonical(7)}",
    ]


def test_settings_and_a_safe_restart_are_shown(scene: Admin, open_page: Open) -> None:
    shown = open_page(scene)
    shown.wait_for_text("Safe to restart: 0 answers, 0 moves under way")
    settings = shown.page.locator("#settings").inner_text()
    for text in ("my-metadata", ":FileDriver", "/instances", "everywhere"):
        assert text in settings


def test_faults_of_one_reason_are_one_row_that_opens(
    start: Callable[..., ServerProcess], own_instances: Path, open_page: Open
) -> None:
    for number in range(80):
        text = f"metadata: {{}}\nnetwork:\n  address: nonsense{number}\n"
        (own_instances / f"bad{number}.yaml").write_text(text)
    admin = Admin(start("--catalogue"))
    wait_until(lambda: admin.json("/api/faults")["state"] == "complete")
    shown = open_page(admin)
    group = shown.page.locator("#faults details", has_text="80 times: network.address")
    group.wait_for()
    assert group.locator("li").first.is_hidden()
    group.locator("summary").click()
    assert group.locator("li").count() == 80
    assert "nonsense7'" in group.inner_text()


FRAGMENTS = {
    "half an escape": "#%",
    "half a character": "#%E0%A4",
    "NUL": "#%00",
    "prototype": "#__proto__",
    "constructor": "#constructor",
    "above": "#..%2f..",
    "two dots": "#..",
    "markup": "#<img src=x onerror=window.ran=1>",
    "very long": "#" + "%F0%9F%98%80" * 20_000,
    "half an escape, long": "#" + "a" * 1200 + "%",
    "only half a pair": "#" + "a" + "%F0%9F%98%80" * 1000,
}


@pytest.mark.parametrize("fragment", FRAGMENTS.values(), ids=FRAGMENTS)
def test_page_goes_on_whatever_its_address_says(
    scene: Admin, open_page: Open, fragment: str
) -> None:
    shown = open_page(scene, path=f"/{fragment}")
    shown.wait_for_text("machines are in trouble")
    shown.page.locator("#story-name").get_by_text("Not known", exact=True).wait_for()
    shown.page.keyboard.press("Escape")
    shown.page.get_by_text("nobody", exact=True).click()
    shown.page.locator(".advice").wait_for()
    assert shown.page.evaluate("window.ran") is None
    assert [text for text in shown.complaints if "404" not in text] == []


HOSTILE_NAMES = {
    "1,024 characters": "n" * 1024,
    "characters above the first plane": "\U0001f600" * 256,
    "overrides": "\u202e\u2066\u200f" * 50 + "evil",
    "NUL": "a\0b\x1b[2J\r\nc",
    "markup": "</span></script><script>window.ran=1</script>" * 20,
    "prototype": "__proto__",
    "slashes": "../../etc/passwd?#%",
}


@pytest.mark.parametrize("name", HOSTILE_NAMES.values(), ids=HOSTILE_NAMES)
def test_page_is_usable_with_a_machine_of_a_hostile_name(
    scene: Admin, open_page: Open, peers: ExitStack, name: str
) -> None:
    number = 0x1000 + list(HOSTILE_NAMES.values()).index(name)
    peers.callback(boot(scene.server, name, vc_uuid=uuid(number)).close)
    shown = open_page(scene, "phone")
    row = shown.page.locator(f'#list [data-id="{canonical(number)}"] button')
    row.click()
    shown.page.locator(".advice").wait_for()
    assert shown.page.evaluate(OVERFLOW) <= 0
    told = shown.page.locator("#story-name").evaluate("node => node.textContent")
    assert told == name or told.startswith(name[:60])
    shown.page.get_by_role("button", name="Close").click()
    shown.page.get_by_label("Search machines").fill(f"{number:012x}")
    shown.wait_for_title("1 machine")
    assert shown.page.evaluate("window.ran") is None
    assert shown.complaints == []

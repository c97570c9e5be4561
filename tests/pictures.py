"""Make the pictures of the status page in docs/images: the real page of a real server, in chromium.

python -m tests.pictures
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tests.process import CHECKOUT, ServerProcess
from tests.test_admin import QUICK, Admin, boot, uuid
from tests.test_report import QUIET
from tests.waiting import wait_until

IMAGES = CHECKOUT / "docs/images"
SIZE = {"width": 1440, "height": 1220}
OF_A_MACHINE = {"width": 1100, "height": 780}
SCALE = 0.75
SERVED = [f"{role}{number}" for role in ("web", "db", "build") for number in range(1, 7)]
FAULTY, UNKNOWN = "cache1", "old-app"


def write_instances(directory: Path) -> None:
    for number, name in enumerate(SERVED):
        address = f"10.0.1.{20 + number}/24"
        (directory / f"{name}.yaml").write_text(
            f"metadata: {{hostname: {name}.example.com}}\nnetwork: {{address: {address}}}\n"
            "userdata: |\n  #cloud-config\n  timezone: Europe/Berlin\n"
        )
    faulty = "metadata: {}\nnetwork:\n  address: 10.0.1.277/24\n"
    (directory / f"{FAULTY}.yaml").write_text(faulty)
    for file in directory.iterdir():
        file.chmod(0o640)


def picture(page: Page, name: str) -> None:
    page.evaluate("document.fonts.ready")
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("needs chromium (apt-get install chromium)")
    with tempfile.TemporaryDirectory() as directory, ExitStack() as ended:
        write_instances(Path(directory))
        server = ServerProcess(
            Path(directory), "--admin-listen", "127.0.0.1:0", "--catalogue", command=QUICK
        )
        ended.callback(server.end)
        admin = Admin(server)
        for number, name in enumerate([*SERVED, FAULTY, UNKNOWN]):
            ended.callback(boot(server, name, vc_uuid=uuid(number)).close)
        wait_until(lambda: admin.json("/api/status")["machines"]["served"] == len(SERVED))
        wait_until(lambda: admin.json("/api/faults")["state"] == "complete")
        playwright = ended.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        ended.callback(browser.close)
        page = browser.new_page(viewport=SIZE, device_scale_factor=SCALE, color_scheme="light")
        page.goto(f"http://127.0.0.1:{admin.port}/")
        page.get_by_text(UNKNOWN, exact=True).first.wait_for()
        picture(page, "page")
        page.set_viewport_size(OF_A_MACHINE)
        page.locator(".machine .name").get_by_text(SERVED[0], exact=True).click()
        page.get_by_text("SHA-256").first.wait_for()
        picture(page, "page-machine")


if __name__ == "__main__":
    main()

"""A first boot of Debian 13 with a line that is moved, cut, late or noisy."""

from __future__ import annotations

import pytest

from tests.e2e.expected import (
    CONFIG,
    CONSOLE_ONLY,
    FIRST,
    LARGE,
    MACHINE,
    check_identity,
    check_script,
    identity,
)
from tests.e2e.image import ImageOf
from tests.e2e.lab import Lab
from tests.e2e.recipe import DEBIAN_13
from tests.e2e.wire import When

pytestmark = pytest.mark.slow


@pytest.mark.e2e_quick
def test_vmotion_between_metadata_and_user_data_loses_nothing(lab: Lab, image_of: ImageOf) -> None:
    LARGE.serve(lab)
    lab.start_server()
    image = image_of(DEBIAN_13)
    move = When(rb"!!REQUEST_USERDATA#", lab.move)
    boot = lab.boot(lab.disk(image), image.kernel, MACHINE, asked=(move,))
    check_identity(boot, LARGE)
    check_script(boot)
    assert "has moved here by vMotion" in lab.server_log
    assert lab.wire.asked.said.count(b"!!REQUEST_USERDATA#") == 1
    lab.saw(f"{identity(LARGE)}; 400 kB of user-data, requested once")


def test_server_that_comes_late_and_dies_in_an_answer_is_asked_again(
    lab: Lab, image_of: ImageOf
) -> None:
    LARGE.serve(lab)

    def die_and_come_back() -> None:
        lab.kill_server()
        lab.start_server()

    image = image_of(DEBIAN_13)
    boot = lab.boot(
        lab.disk(image),
        image.kernel,
        MACHINE,
        asked=(When(rb"(?s)!!REQUEST_.*!!REQUEST_", lab.start_server),),
        answered=(When(rb"!!RESPONSE_USERDATA#[^\n]", die_and_come_back),),
    )
    check_identity(boot, LARGE)
    check_script(boot)
    cut, whole = bytes(lab.wire.answered.said).split(b"!!RESPONSE_USERDATA#")[1:]
    assert 0 < len(cut) < len(whole)
    lab.saw(f"{identity(LARGE)}; 400 kB of user-data, complete in the second answer")


LATE = "/dev/vmw-metadata"
# Once the agent waits, a unit makes the link.
LATE_RULE = f"""\
KERNEL=="ttyS1", RUN+="/usr/bin/systemd-run --no-block -p DefaultDependencies=no /bin/sh -c \
'until journalctl -u vmw-metadata-agent | grep -q waiting; do sleep 1; done; ln -s ttyS1 {LATE}'"
"""


def test_device_that_is_named_late_is_waited_for(lab: Lab, image_of: ImageOf) -> None:
    FIRST.serve(lab)
    lab.start_server()
    image = image_of(DEBIAN_13)
    disk = lab.disk(image)
    disk.write(CONFIG, f"[agent]\ndevice = {LATE}\nport-timeout = 60\n".encode())
    disk.write("/etc/udev/rules.d/90-late.rules", LATE_RULE.encode())
    boot = lab.boot(disk, image.kernel, MACHINE)
    check_identity(boot, FIRST)
    assert f"{LATE}: No such file or directory: waiting for it, 60 s at most" in boot.agent_log
    lab.saw(f"{identity(FIRST)}; the device was there seconds after the agent")


def test_only_port_is_the_console(lab: Lab, image_of: ImageOf) -> None:
    FIRST.serve(lab)
    lab.start_server()
    image = image_of(DEBIAN_13)
    disk = lab.disk(image)
    disk.write(CONFIG, b"[agent]\ndevice = /dev/ttyS0\n")
    noise = When(rb"Linux version", lambda: None)
    boot = lab.boot(disk, image.kernel, CONSOLE_ONLY, asked=(noise,))
    check_identity(boot, FIRST)
    assert disk.text("/root/file") == "first"
    assert "/dev/ttyS0 has a login prompt" in boot.report_log
    kilobytes = len(lab.wire.asked.said) // 1000
    lab.saw(
        f"{identity(FIRST)}; {kilobytes} kB of kernel messages and login prompts on the same line"
    )

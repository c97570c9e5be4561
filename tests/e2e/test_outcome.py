"""How boots end: what the guest reports of them."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.boot import Boot
from tests.e2e.disk import Disk
from tests.e2e.expected import CONFIG, FEW_KEYS, MACHINE, check_told_soon, cloud_config
from tests.e2e.image import ImageOf
from tests.e2e.lab import Lab
from tests.e2e.recipe import DEBIAN_12, DEBIAN_13, Recipe
from tests.e2e.wire import When
from vmw_cloudinit_metadata.guest.image.parts import REPORT_ENABLED, REPORT_UNIT

pytestmark = pytest.mark.slow

EACH_DEBIAN = pytest.mark.parametrize("recipe", [DEBIAN_12, DEBIAN_13], ids=lambda r: r.name)
FAILING = {**cloud_config("failing"), "runcmd": ["exit 3"]}
VENDOR = {"locale": "C.UTF-8", **FEW_KEYS}
BROKEN = "#cloud-config\nruncmd: [\n  foo: bar: baz\n"
REPORT = rb"!!REQUEST_STATUS#([\w+/]+=*)\n"
LATE_S = 5.0  # the alert's 15 minutes; more than the time from one document to the next


def forbid_reports(disk: Disk) -> None:
    disk.write(CONFIG, b"[agent]\nreport = no\n")


def leave_out_the_unit(disk: Disk) -> None:
    """Make the disk as of an image that is older than reports, or had `--no-report`."""
    disk.remove(REPORT_ENABLED, REPORT_UNIT)


def boot_with(lab: Lab, image_of: ImageOf, recipe: Recipe, userdata: object) -> Boot:
    lab.serve(
        metadata={"instance-id": "i-6", "hostname": "web6"},
        userdata=userdata,
        vendordata=VENDOR,  # also counts where the user-data is no YAML
    )
    lab.start_server()
    image = image_of(recipe)
    reported = When(REPORT, lambda: None)
    return lab.boot(lab.disk(image), image.kernel, MACHINE, asked=(reported,), is_watched=True)


def reported(lab: Lab) -> Any:
    found = re.search(REPORT, lab.wire.asked.said)
    assert found
    return json.loads(base64.b64decode(found[1]))


def check_report(lab: Lab, boot: Boot, report: Any) -> None:
    """Check all but how it ended, in what was sent and in what the server shows."""
    assert (report["v"], report["instance"]) == (1, "i-6")
    assert report["boot"] == boot.boot_id
    assert set(report["hostkeys"]) == boot.host_keys
    assert {"init-local", "init", "modules-config", "modules-final"} == set(report["stages"])
    assert "vmw-metadata-report.service" not in boot.failed_units
    told = lab.onlooker.told
    assert (told.outcome["status"], told.outcome["errors"]) == (report["status"], report["errors"])
    assert told.state == ("broken" if report["status"] == "error" else "booted")
    assert told.outcome["boot_id"] == boot.boot_id
    check_told_soon(lab, boot)


@EACH_DEBIAN
def test_command_that_fails_is_reported_as_an_error(
    lab: Lab, image_of: ImageOf, recipe: Recipe
) -> None:
    boot = boot_with(lab, image_of, recipe, FAILING)
    report = reported(lab)
    check_report(lab, boot, report)
    assert len(report["hostkeys"]) == 2
    assert report["status"] == "error"
    assert any("runcmd" in error for error in report["errors"])
    lab.saw(report["errors"][0])


@EACH_DEBIAN
def test_user_data_that_is_not_yaml_is_reported_as_degraded(
    lab: Lab, image_of: ImageOf, recipe: Recipe
) -> None:
    boot = boot_with(lab, image_of, recipe, BROKEN)
    report = reported(lab)
    check_report(lab, boot, report)
    assert report["status"] == "degraded"
    assert any("yaml" in error.lower() for error in report["errors"])
    lab.saw(report["errors"][0])


@EACH_DEBIAN
@pytest.mark.parametrize("silence", [forbid_reports, leave_out_the_unit])
def test_boot_without_a_report_stays_served_and_counts_for_the_alert(
    lab: Lab, image_of: ImageOf, recipe: Recipe, silence: Callable[[Disk], None]
) -> None:
    lab.serve(metadata={"instance-id": "i-6", "hostname": "web6"}, userdata=FAILING)
    lab.start_server("--expect-outcomes", admin__awaited__LATE_S=LATE_S)
    image = image_of(recipe)
    disk = lab.disk(image)
    silence(disk)
    early: list[int] = []
    begun = When(rb"!!RESPONSE_METADATA#", lambda: early.append(lab.late_count))
    boot = lab.boot(disk, image.kernel, MACHINE, answered=(begun,), is_watched=True)
    assert boot.instance_id == "i-6"
    assert any("runcmd" in error for error in boot.result["errors"])  # nobody reports it
    assert not re.search(REPORT, lab.wire.asked.said)
    assert "vmw-metadata-report.service" not in boot.failed_units
    says = ["report = no: nothing is reported"] if silence is forbid_reports else []
    assert boot.report_log.splitlines() == says
    connected = [look for look in lab.onlooker.looks if look.is_connected]
    assert {(look.state, look.outcome) for look in connected} == {("served", None)}
    assert early == [0]
    assert connected[-1].late_count == 1
    lab.saw(f"no report: the server shows it as {connected[-1].state}, and the alert counts it")

"""For the tests of a driver: checks that it does what docs/drivers.md says.

    from vmw_cloudinit_metadata.testing import check_driver, machine

    def test_driver_keeps_its_contract():
        check_driver(MyDriver, {"url": "..."}, known=[machine("web1")], unknown=machine("none"))

Needs no test framework.
"""

from vmw_cloudinit_metadata.testing.drivercheck import check_driver as check_driver
from vmw_cloudinit_metadata.testing.drivercheck import driver_faults as driver_faults
from vmw_cloudinit_metadata.testing.drivercheck import machine as machine

"""Who made the machine."""

import sys

BIOS = r"HARDWARE\DESCRIPTION\System\BIOS"  # of the registry; the kernel fills it at each boot
LINUX = "/sys/class/dmi/id/sys_vendor"


def manufacturer() -> str:
    """Return the manufacturer that the firmware names, such as `VMware, Inc.`, or nothing."""
    try:
        if sys.platform == "win32":
            import winreg

            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, BIOS) as key:
                return str(winreg.QueryValueEx(key, "SystemManufacturer")[0])
        with open(LINUX, encoding="utf-8", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""

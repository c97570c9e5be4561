"""The settings in force, as the status page shows them: those that an operator asks for first, and
no secret. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmw_cloudinit_metadata.settings.masking import masked
from vmw_cloudinit_metadata.settings.values import SecretUrl

_FILES = (
    *("tls_cert", "tls_key", "vmotion_key_file", "admin_token_file", "state_file", "audit_log"),
    *(
        "last_good_dir",
        "ledger",
        "vcenter_password_file",
        "vcenter_ca_file",
        "outcome_hook_key_file",
    ),
)


def shown_settings(options: Mapping[str, Any], config: str | None) -> dict[str, Any]:
    """Return names and values as JSON has them."""
    opts = masked(options["driver_opts"])
    files = {name.replace("_", "-"): options[name] for name in _FILES}
    fleet = options["fleet_url"]
    return {
        "uris": sorted(options["uris"]),
        "listen": list(map(str, options["listen"])),
        "driver": options["driver_spec"],
        "directory": opts.get("directory"),
        "driver_options": {name: opt for name, opt in opts.items() if name != "directory"},
        "config": config,
        "files": {name: str(file) for name, file in files.items() if file},
        "peers": {
            "allow": list(map(str, options["allow"])),
            "proxy_protocol": list(map(str, options["proxy_protocol"])),
            "fleet": fleet.shown if isinstance(fleet, SecretUrl) else None,
            # Its query may be a secret.
            "outcome_hook": (options["outcome_hook"] or "").partition("?")[0] or None,
            "vcenter": options["vcenter"] and str(options["vcenter"]),
        },
        "tls": options["tls"],
        "workers": options["workers"],
    }

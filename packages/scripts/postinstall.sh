#!/bin/sh
# deb: configure, and the version that was configured before; rpm: the number of versions.
set -e
unit=vmw-metadata-server.service
settings=/etc/vmw-metadata-server/server.yaml

case "$1:$2" in
configure:* | [12]:*)
    systemd-sysusers vmw-cloudinit-metadata.conf
    ;;
esac
case "$1:$2" in
configure: | [12]:*) # rpm gives a file that nobody has changed its own mode and group at each upgrade
    # It may contain passwords.
    chgrp vmw-metadata "$settings"
    chmod 640 "$settings"
    ;;
esac
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true # what it says is printed; the files are installed all the same
    case "$1:$2" in
    configure:?* | 2:*)
        if systemctl --quiet is-active "$unit"; then
            # A restart would close the lines of all VMs.
            pid=$(systemctl show --property MainPID --value "$unit")
            vmw-cloudinit-metadata upgrade --pid "$pid" ||
                echo "the previous version still runs: see 'journalctl -u $unit', then 'systemctl restart $unit'" >&2
        fi
        ;;
    esac
fi

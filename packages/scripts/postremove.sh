#!/bin/sh
# The user stays: files that it owns may be elsewhere, and another user could get its number.
set -e
if [ "$1" = purge ]; then
    rm -rf /var/lib/vmw-metadata-server /var/log/vmw-metadata-server
fi
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload || true
fi

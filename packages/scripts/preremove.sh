#!/bin/sh
# deb: remove, or upgrade; rpm: the number of versions that stay. A systemd that fails hinders no removal.
set -e
case "$1" in
remove | 0)
    if [ -d /run/systemd/system ]; then
        systemctl --quiet disable --now vmw-metadata-server.service || true
    elif command -v systemctl >/dev/null; then
        systemctl --quiet disable vmw-metadata-server.service || true
    fi
    ;;
esac

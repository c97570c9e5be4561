#!/bin/sh
# Build the virtual environment at its final path, in a tree of Debian, without the network.
#
#     environment.sh WHEELS PYTHON
#
# WHEELS has pip, the project and all of requirements.lock. The same wheels give the same bytes: .pyc
# files are checked by no time stamp, and the order of sets does not change what they contain.
set -eu
wheels=$1 python=$2
place=/usr/lib/vmw-cloudinit-metadata
umask 022

"$python" -m venv --without-pip "$place"
install() {
    PYTHONPATH=$(echo "$wheels"/pip-*.whl) "$place/bin/python" -m pip install --quiet \
        --disable-pip-version-check --no-index --no-compile --no-cache-dir --find-links "$wheels" "$@"
}
install --require-hashes --requirement "$wheels/requirements.lock"
install --no-deps vmw-cloudinit-metadata

# Some wheels have libraries and modules that can be executed.
find "$place/lib" -type f -perm /111 -exec chmod 644 {} +
# Programs and tests of dependencies, and what is for other uses of the environment.
find "$place/bin" -type f ! -name 'vmw-*' -delete
find "$place/lib" -type d -name tests -prune -exec rm -r {} +
rm -f "$place/.gitignore"
"$place/bin/python" -m compileall -q --invalidation-mode unchecked-hash "$place/lib"

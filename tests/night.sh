#!/bin/sh
# What is too long for every change: `make night`. The server tests with the servers' clocks on
# other days (tests/clocks.py), then everything in full counts (tests/counts.py), and a hundred
# thousand statements each that are hostile or must equal an unsharded database.
#   PYTHON=.venv/bin/python sh tests/night.sh [clocks] [full] [fuzz]
# Arguments for pytest go into PYTEST_ARGS. Every part runs, whatever the ones before it said.
set -u
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
CLOCKS='+45d 03-01 12-31T23:59'

failed=0
summary=

# part NAME ARGUMENT...: run pytest, and remember how it went.
part() {
    name=$1 started=$(date +%s)
    shift
    echo "== $name"
    # shellcheck disable=SC2086  # several arguments are meant
    if "$PYTHON" -m pytest -n 2 --dist worksteal -rfEs ${PYTEST_ARGS:-} "$@"; then
        result=passed
    # A year ends a minute after the servers start: a test in which a day passes finds the work of
    # the new day. Its second run starts them anew, and is over before.
    elif [ -n "${PARLANT_SHARD_TEST_CLOCK:-}" ] &&
        "$PYTHON" -m pytest -rfEs --last-failed --last-failed-no-failures none "$@"; then
        result="passed, some tests on the second try (they are named above)"
    else
        result=FAILED failed=1
    fi
    summary="$summary
$name: $result in $(($(date +%s) - started)) s"
}

for what in ${*:-clocks full fuzz}; do
    case $what in
        clocks)
            for clock in $CLOCKS; do
                export PARLANT_SHARD_TEST_CLOCK="$clock"
                part "servers at $clock" tests/server
                unset PARLANT_SHARD_TEST_CLOCK
            done
            ;;
        full)
            export PARLANT_SHARD_TEST_FULL=1
            # The usual limit is for samples.
            part "full counts" -o timeout=3600 tests
            unset PARLANT_SHARD_TEST_FULL
            ;;
        fuzz)
            export PARLANT_SHARD_TEST_FUZZ=100000 PARLANT_SHARD_TEST_STATEMENTS=100000
            part "fuzz" -o timeout=14400 \
                tests/server/test_fuzz.py tests/server/test_router_differential.py
            unset PARLANT_SHARD_TEST_FUZZ PARLANT_SHARD_TEST_STATEMENTS
            ;;
        *)
            echo "there are clocks, full and fuzz, not $what" >&2
            exit 64
            ;;
    esac
done
echo "$summary"
exit $failed

#!/usr/bin/env bash
# A real server delivers to a receiver that checks every signature with the public
# packages receivers use; what arrived is compared with what was sent.
#   .ci/receivers.sh BINARY          Python: standardwebhooks, svix; v1a: cryptography, authweave-webhooks
#   .ci/receivers.sh BINARY --node   the captured deliveries by Node's packages too
# Needs python3 with venv and the Python package index; with --node also npm.
set -euo pipefail
cd "$(dirname "$0")/receivers"
binary="$(cd "$OLDPWD" && realpath "$1")"
node="${2:-}"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

fail() { echo "FAILED: $1"; exit 1; }
install() {
    (apt-get update -qq && apt-get install -y -qq "$@") >"$work/log" 2>&1 ||
        { cat "$work/log"; fail "apt-get cannot install $*"; }
}

command -v python3 >/dev/null || install python3 python3-venv
python3 -c 'import ensurepip, venv' 2>/dev/null || install python3-venv
python3 -m venv "$work/venv" >"$work/log" 2>&1 || { cat "$work/log"; fail "python3 -m venv"; }
"$work/venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.txt >"$work/log" 2>&1 ||
    { cat "$work/log"; fail "pip install of the packages that verify"; }

capture=()
if [ "$node" = --node ]; then
    command -v npm >/dev/null || fail "npm is needed for --node"
    capture=(--capture "$work/deliveries.ndjson")
fi
PYTHONDONTWRITEBYTECODE=1 "$work/venv/bin/python" check.py "$binary" --work "$work" "${capture[@]}"

if [ "$node" = --node ]; then
    # Beside its packages, as imports are looked up from the file's place.
    mkdir "$work/node"
    cp package.json verify.mjs "$work/node"
    (cd "$work/node" && npm install --silent --no-audit --no-fund) >"$work/log" 2>&1 ||
        { cat "$work/log"; fail "npm install of standardwebhooks and svix"; }
    node "$work/node/verify.mjs" "$work/deliveries.ndjson"
fi

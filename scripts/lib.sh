# Shared by the scripts: finding the checkout, installing what is missing. Sourced, not run.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD

say() { printf '%s\n' "$*"; }
step() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Installs a program with the system's own package manager when it is not there.
need() { # program, Debian package, Homebrew package
    command -v "$1" >/dev/null 2>&1 && return
    say "installing $1"
    if command -v apt-get >/dev/null 2>&1; then
        local sudo=
        [ "$(id -u)" = 0 ] || sudo=sudo
        $sudo apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq "$2" >/dev/null
    elif command -v brew >/dev/null 2>&1; then
        brew install "$3"
    fi
    command -v "$1" >/dev/null 2>&1 || die "$1 is missing and could not be installed; install it, then run this again"
}

need_rust() {
    command -v cargo >/dev/null 2>&1 && return
    die "cargo is missing; install Rust with rustup, then run this again"
}

# Runs a command that must end within so many minutes: one that hangs is named instead of waited for.
limited() { # minutes, command...
    local minutes=$1 status=0
    shift
    command -v timeout >/dev/null 2>&1 || { "$@"; return; }
    timeout --kill-after=30 "${minutes}m" "$@" || status=$?
    [ "$status" != 124 ] || say "not ended within $minutes minutes: $*"
    return "$status"
}

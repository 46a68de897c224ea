#!/bin/sh
# Installs the real agent programs that the runtime tests drive, pinned by version, with npm into
# one directory:   install.sh DIR
# Claude Code and Codex are afterwards DIR/bin/claude and DIR/bin/codex. Nothing is downloaded when
# the pinned versions are there already. A version that no longer exists is replaced by the newest
# one, with a warning; anything else that goes wrong ends with a message and status 1.
#
# Environment: CLAUDE_VERSION, CODEX_VERSION override the pins.
set -eu

claude_version=${CLAUDE_VERSION:-2.1.330}
codex_version=${CODEX_VERSION:-0.169.0}

say() { printf 'install: %s\n' "$*"; }
warn() { printf 'install: warning: %s\n' "$*" >&2; }
die() { printf 'install: error: %s\n' "$*" >&2; exit 1; }
# What npm prints may name the place packages come from: that never leaves this script.
redact() {
    sed -E -e '/complete log of this run/d' -e 's#[a-zA-Z+]+://[^][:space:]")]*#(url)#g' \
        -e 's#\b([a-zA-Z0-9-]+\.)+[a-zA-Z]{2,}(:[0-9]+)?\b#(host)#g'
}

[ $# -eq 1 ] && [ -n "$1" ] || die "usage: install.sh DIR"
mkdir -p "$1" || die "cannot create $1"
dir=$(cd "$1" && pwd)

# --- node and npm ---------------------------------------------------------------------------------
node_major() { node -p 'process.versions.node.split(".")[0]' 2>/dev/null || echo 0; }
missing=
command -v node >/dev/null 2>&1 || missing="nodejs"
command -v npm >/dev/null 2>&1 || missing="$missing npm"
if [ -n "$missing" ]; then
    [ "$(id -u)" -eq 0 ] || die "missing:$missing; install node 18 or newer and npm, or run this as root"
    command -v apt-get >/dev/null 2>&1 || die "missing:$missing, and there is no apt-get to install it with"
    say "installing $missing with apt-get"
    # shellcheck disable=SC2086
    if ! { DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing ||
        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing; }
    } >"$dir/apt.log" 2>&1; then
        tail -n 5 "$dir/apt.log" | redact >&2
        rm -f "$dir/apt.log"
        die "apt-get could not install $missing"
    fi
    rm -f "$dir/apt.log"
fi
[ "$(node_major)" -ge 18 ] || die "node is $(node --version 2>/dev/null || echo absent), 18 or newer is needed"

# --- one program ----------------------------------------------------------------------------------
# Prints the version that the program itself reports, or nothing. Its home is a scratch directory,
# and where this machine allows it, it has no network.
offline=
if [ "$(id -u)" -eq 0 ] && unshare -n true 2>/dev/null; then offline="unshare -n"; fi
reported() {
    scratch=$(mktemp -d)
    # shellcheck disable=SC2086
    $offline env -i HOME="$scratch" PATH="$(dirname "$(command -v node)"):/usr/bin:/bin" TERM=dumb \
        DISABLE_AUTOUPDATER=1 CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_TELEMETRY=1 \
        "$1" --version </dev/null 2>/dev/null | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1 || true
    rm -rf "$scratch"
}

npm_install() { # prefix, package@version; the log is left in prefix/npm.log
    npm install --prefix "$1" --no-package-lock --no-save --no-audit --no-fund --no-update-notifier --logs-max=0 \
        --loglevel=error --include=optional "$2" >"$1/npm.log" 2>&1
}

program() { # command, package, version
    name=$1 package=$2 want=$3
    prefix=$dir/$name
    bin=$prefix/node_modules/.bin/$name
    mkdir -p "$dir/bin" "$prefix"
    if [ -x "$bin" ] && [ "$(reported "$bin")" = "$want" ]; then
        ln -sfn "../$name/node_modules/.bin/$name" "$dir/bin/$name"
        say "$name $want (already there)"
        return
    fi
    # A prefix of its own per program, with a manifest: npm then never looks at a parent folder.
    printf '{"private":true}\n' >"$prefix/package.json"
    say "installing $package $want"
    if ! npm_install "$prefix" "$package@$want"; then
        if grep -qE 'ETARGET|No matching version|notarget' "$prefix/npm.log"; then
            warn "$package $want does not exist any more, taking the newest version"
            npm_install "$prefix" "$package@latest" || { tail -n 8 "$prefix/npm.log" | redact >&2; rm -f "$prefix/npm.log"; die "npm could not install $package"; }
        else
            tail -n 8 "$prefix/npm.log" | redact >&2
            rm -f "$prefix/npm.log"
            die "npm could not install $package $want"
        fi
    fi
    # npm's own bookkeeping names download addresses; nothing here needs it.
    rm -f "$prefix/npm.log" "$prefix/node_modules/.package-lock.json"
    [ -x "$bin" ] || die "npm finished, but $bin is not there"
    got=$(reported "$bin")
    [ -n "$got" ] || die "$name is installed but does not run ($bin --version); is its platform package missing?"
    [ "$got" = "$want" ] || warn "$name is $got, not the pinned $want: recorded screens may not match"
    ln -sfn "../$name/node_modules/.bin/$name" "$dir/bin/$name"
    say "$name $got"
}

program claude @anthropic-ai/claude-code "$claude_version"
program codex @openai/codex "$codex_version"
say "node $(node --version), npm $(npm --version 2>/dev/null), programs in $dir/bin"

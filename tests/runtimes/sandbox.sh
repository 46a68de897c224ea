#!/bin/sh
# Runs a command, with the mock model server beside it, in a network namespace that has only
# loopback and a pid namespace of its own, with a scrubbed environment and a home of its own: the place where the runtime tests
# start real agent programs. Nothing in it can reach a network, read the caller's home or find a key.
#
#   sandbox.sh --work DIR [--agents DIR] [--onboarded] [--trust DIR]... [--env NAME=VALUE]... -- COMMAND [ARG]...
#
#   --work DIR        work directory; receives home/, tmp/, mock.jsonl, mock.port, mock.out
#   --agents DIR      where install.sh put the programs: DIR/bin comes first in PATH
#   --onboarded       seed the home as after a first start (Claude Code's theme and security notes)
#   --trust DIR       as --onboarded, and DIR is a trusted folder for both programs
#   --env NAME=VALUE  one more variable for the command
#   --key-files       credentials and the mock's address only in files of the home ($HOME/.claude/settings.json,
#                     $HOME/.codex/config.toml), not in the environment; implies --onboarded
#   --user NAME       run the command as this user instead of root (the work directory becomes theirs);
#                     Claude Code refuses its bypass mode as root
#
# The command sees: HOME, PATH, TERM, LANG, TMPDIR, USER, SHELL, variables that turn telemetry and
# updates off, dummy credentials that point at the mock, and MOCK_URL, MOCK_LOG, MOCK_PORT, SANDBOX_WORK.
# Codex finds the mock by $CODEX_HOME/config.toml (CODEX_HOME is $HOME/.codex, also its default), Claude
# Code by ANTHROPIC_BASE_URL. No folder is trusted unless --trust says so.
# The status is that of the command. When it ends, everything it left running is killed.
set -eu

die() { printf 'sandbox: error: %s\n' "$*" >&2; exit 125; }
here=$(cd "$(dirname "$0")" && pwd)

# --- second half: inside the namespaces -----------------------------------------------------------
if [ "${1:-}" = --inside ]; then
    shift
    ip link set lo up || die "cannot bring up loopback in the namespace"
    if ip -o link | grep -qv ': lo:'; then die "the namespace has more than loopback"; fi

    node "$here/mock-model.mjs" --port 0 --log "$SANDBOX_WORK/mock.jsonl" \
        --port-file "$SANDBOX_WORK/mock.port" >"$SANDBOX_WORK/mock.out" 2>&1 &
    mock=$!
    tries=0
    until [ -s "$SANDBOX_WORK/mock.port" ]; do
        kill -0 "$mock" 2>/dev/null || { cat "$SANDBOX_WORK/mock.out" >&2; die "the mock server did not start"; }
        tries=$((tries + 1))
        [ "$tries" -lt 200 ] || die "the mock server did not listen within 10 seconds"
        sleep 0.05
    done
    MOCK_PORT=$(cat "$SANDBOX_WORK/mock.port")
    MOCK_URL=http://127.0.0.1:$MOCK_PORT
    export MOCK_PORT MOCK_URL
    if [ -n "$SANDBOX_KEY_FILES" ]; then
        key='experimental_bearer_token = "dummy"'
    else
        key='env_key = "MOCK_KEY"'
        export ANTHROPIC_BASE_URL="$MOCK_URL" ANTHROPIC_AUTH_TOKEN=dummy
        export CODEX_HOME="$HOME/.codex" MOCK_KEY=dummy
    fi
    mkdir -p "$HOME/.codex"
    # Written anew every time: what another run left in the same work directory names a port that is gone.
    cat >"$HOME/.codex/config.toml" <<TOML
# Written by the runtime tests: the only model provider is the mock.
model = "mock-model"
model_provider = "mock"
check_for_update_on_startup = false

[analytics]
enabled = false

[model_providers.mock]
name = "mock"
base_url = "$MOCK_URL/v1"
wire_api = "responses"
$key

[tui]
screen_reader_detection_done = true
TOML
    if [ -n "$SANDBOX_ONBOARDED" ]; then
        node - "$HOME" <<'JS'
const fs = require('fs');
const home = process.argv[2];
if (process.env.SANDBOX_KEY_FILES) {
  const env = { DISABLE_AUTOUPDATER: '1', DISABLE_TELEMETRY: '1', CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
    ANTHROPIC_BASE_URL: process.env.MOCK_URL, ANTHROPIC_AUTH_TOKEN: 'dummy' };
  fs.mkdirSync(`${home}/.claude`, { recursive: true });
  fs.writeFileSync(`${home}/.claude/settings.json`, JSON.stringify({ env }));
}
const trusted = (process.env.SANDBOX_TRUST || '').split('\n').filter(Boolean);
const projects = Object.fromEntries(trusted.map((dir) => [dir, { hasTrustDialogAccepted: true }]));
const file = `${home}/.claude.json`;
const old = fs.existsSync(file) ? JSON.parse(fs.readFileSync(file, 'utf8')) : {};
for (const dir of trusted) projects[dir] = { ...old.projects?.[dir], ...projects[dir] };
fs.writeFileSync(file, JSON.stringify({ ...old, hasCompletedOnboarding: true, projects: { ...old.projects, ...projects } }));
for (const dir of trusted) {
  fs.appendFileSync(`${home}/.codex/config.toml`, `\n[projects.${JSON.stringify(dir)}]\ntrust_level = "trusted"\n`);
}
JS
    fi
    if [ -n "$SANDBOX_USER" ]; then
        group=$(id -g "$SANDBOX_USER")
        chown "$SANDBOX_USER:$group" "$SANDBOX_WORK"
        chown -R "$SANDBOX_USER:$group" "$HOME" "$TMPDIR"
        set -- setpriv --reuid "$(id -u "$SANDBOX_USER")" --regid "$group" --clear-groups --inh-caps=-all \
            env USER="$SANDBOX_USER" LOGNAME="$SANDBOX_USER" "$@"
    fi
    unset SANDBOX_ONBOARDED SANDBOX_TRUST SANDBOX_KEY_FILES SANDBOX_USER
    status=0
    "$@" || status=$?
    kill "$mock" 2>/dev/null || true
    wait "$mock" 2>/dev/null || true
    exit "$status"
fi

# --- first half: checks, then into the namespaces -------------------------------------------------
work= agents= onboarded= trust= key_files= user=
extra=$(mktemp)
trap 'rm -f "$extra"' EXIT
while [ $# -gt 0 ]; do
    case $1 in
        --work) work=${2:?}; shift 2 ;;
        --agents) agents=${2:?}; shift 2 ;;
        --onboarded) onboarded=1; shift ;;
        --trust) onboarded=1; trust="$trust$(cd "${2:?}" && pwd -P)
"; shift 2 ;;
        --env) case ${2:?} in [A-Za-z_]*=*) ;; *) die "--env wants NAME=VALUE, not $2" ;; esac
            printf '%s\n' "$2" >>"$extra"; shift 2 ;;
        --user) user=${2:?}; id -u "$user" >/dev/null 2>&1 || die "no user $user"; shift 2 ;;
        --key-files) key_files=1; onboarded=1; shift ;;
        --) shift; break ;;
        *) die "unknown argument $1 (see the head of $0)" ;;
    esac
done
[ -n "$work" ] && [ $# -gt 0 ] || die "usage: sandbox.sh --work DIR [options] -- COMMAND [ARG]..."
[ "$(id -u)" -eq 0 ] || die "real agent programs run only in a network namespace of their own, which needs root; refusing"
for tool in unshare setpriv; do command -v "$tool" >/dev/null 2>&1 || die "$tool (util-linux) is missing"; done
command -v node >/dev/null 2>&1 || die "node is missing (install.sh installs it)"
if ! command -v ip >/dev/null 2>&1; then
    { apt-get install -y --no-install-recommends iproute2 ||
        { apt-get update && apt-get install -y --no-install-recommends iproute2; }; } >/dev/null 2>&1 ||
        die "iproute2 is missing and apt-get could not install it"
fi
unshare --net --pid --fork --mount-proc true 2>/dev/null ||
    die "this machine does not allow network and pid namespaces (unshare failed); refusing"

mkdir -p "$work/home" "$work/tmp"
chmod 700 "$work/home" "$work/tmp"
work=$(cd "$work" && pwd -P)
rm -f "$work/mock.port"
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
node_dir=$(dirname "$(command -v node)")
case ":$path:" in *":$node_dir:"*) ;; *) path=$node_dir:$path ;; esac
if [ -n "$agents" ]; then
    [ -d "$agents/bin" ] || die "$agents/bin does not exist (run install.sh $agents first)"
    path=$(cd "$agents/bin" && pwd):$path
fi

set -- "$here/sandbox.sh" --inside "$@"
# Extra variables replace those below, not what the second half sets. A value cannot hold a line feed.
while IFS= read -r pair; do set -- "$pair" "$@"; done <"$extra"
rm -f "$extra"
trap - EXIT

# unshare itself holds TERM and INT back from what it runs: they are caught here, and end everything.
# When this shell is killed, unshare dies with it, and by --kill-child all that it started.
exec 3<&0
env -i \
    HOME="$work/home" PATH="$path" TMPDIR="$work/tmp" SANDBOX_WORK="$work" MOCK_LOG="$work/mock.jsonl" \
    SANDBOX_ONBOARDED="$onboarded" SANDBOX_TRUST="$trust" SANDBOX_KEY_FILES="$key_files" SANDBOX_USER="$user" \
    DIALOG_TRIES="${DIALOG_TRIES:-4}" DRAFT_TRIES="${DRAFT_TRIES:-12}" ONLY="${ONLY:-}" \
    USER=root LOGNAME=root SHELL=/bin/sh TERM=xterm-256color LANG=C.UTF-8 \
    DISABLE_AUTOUPDATER=1 DISABLE_TELEMETRY=1 DISABLE_ERROR_REPORTING=1 DISABLE_BUG_COMMAND=1 \
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DO_NOT_TRACK=1 \
    setpriv --pdeathsig KILL unshare --net --pid --fork --kill-child --mount-proc env "$@" <&3 3<&- &
inner=$!
exec 3<&-
trap 'kill -KILL "$inner" 2>/dev/null; exit 143' TERM HUP
trap 'kill -KILL "$inner" 2>/dev/null; exit 130' INT
status=0
wait "$inner" || status=$?
exit "$status"

# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What the cases share. A case is a function case_NAME that runs in an empty folder of its own, with
# set -e; it ends by fail or skip, or well. A guest is booted by boot, or by start, await and finish.

UNVMM=$(realpath -m "${UNVMM:-build/unvmm}")
CASE_TIMEOUT=${TESTBED_CASE_TIMEOUT:-240}
# shellcheck disable=SC2034 # for suite
SLOW_CASES=()
# What the guest prints on its serial port, and what unvmm says.
CONSOLE=console.txt
MESSAGES=messages.txt

KERNEL=${TESTBED_KERNEL_CLOUD-}
INITRD=${TESTBED_INITRD_CLOUD-}
CMDLINE="console=ttyS0 panic=-1 quiet"

# show_logs: what a reader of a failure wants to see, before its last line, the reason.
show_logs() {
	local file
	for file in "$MESSAGES" "$CONSOLE"; do
		[ -e "$file" ] && echo "--- $file" && tail -n 40 "$file" | tr -d '\r'
	done
	echo "---"
}

fail() {
	show_logs
	echo "$*"
	exit 1
}

skip() {
	echo "$*"
	exit 77
}

# command_line AGENTS: the guest's, with an agent=... for each word.
command_line() {
	local agent line=$CMDLINE
	for agent in $1; do
		line+=" agent=$agent"
	done
	echo "$line"
}

# start AGENTS [OPTION]...: a guest that runs AGENTS (words: "cpus:2 mem") in the background.
start() {
	local line
	line=$(command_line "$1")
	shift
	: >"$CONSOLE"
	"$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$line" -o on_reboot=exit "$@" </dev/null >"$CONSOLE" 2>"$MESSAGES" &
	GUEST=$!
}

# finish: waits for the guest; its exit status is in STATUS.
finish() {
	STATUS=0
	wait "$GUEST" || STATUS=$?
}

# boot AGENTS [OPTION]...: a guest from start to end.
boot() {
	start "$@"
	finish
}

# await REGEX: until the guest has printed that; it must not end before.
await() {
	until grep -qE "$1" "$CONSOLE"; do
		kill -0 "$GUEST" 2>/dev/null || grep -qE "$1" "$CONSOLE" || fail "the guest ended before '$1'"
		sleep 0.1
	done
}

wants_status() { [ "$STATUS" = "$1" ] || fail "exit status $STATUS, not $1"; }
wants() { grep -qE "$1" "$CONSOLE" || fail "the guest did not print '$1'"; }
wants_message() { grep -qE "$1" "$MESSAGES" || fail "unvmm did not say '$1'"; }

# passes AGENT...: that the agents passed and the guest then powered off.
passes() {
	local agent bad
	bad=$(grep -ao 'unvmm-guest: FAIL.*' "$CONSOLE" | tr -d '\r' | head -n 1 || true)
	[ -z "$bad" ] || fail "$bad"
	for agent; do
		wants "unvmm-guest: PASS $agent"
	done
	wants_status 0
}

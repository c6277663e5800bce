# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What every script of the testbed shares: where things are, how to say and to end things, and
# how to tell whether a generated file is still current. Sourced, never run.

set -euo pipefail

TESTBED_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(cd "$TESTBED_DIR/../.." && pwd)
UNVMM_BUILD=$(realpath -m "${UNVMM_BUILD:-$CHECKOUT/build}")
BUILD=$UNVMM_BUILD/testbed
PATH=$PATH:/usr/sbin:/sbin
# shellcheck disable=SC2034 # used by the scripts
FLAVOURS=(cloud generic)

say() { printf '%s\n' "testbed: $*" >&2; }

# die STATUS TEXT...: one line for the user, then the end.
die() {
	local status=$1
	shift
	say "$*"
	exit "$status"
}

# need TOOL PACKAGE...: pairs; names the packages that are missing.
need() {
	local missing=()
	while [ $# -gt 0 ]; do
		command -v "$1" >/dev/null || missing+=("$2")
		shift 2
	done
	[ ${#missing[@]} = 0 ] || die 126 "please install: ${missing[*]}"
}

# current TARGET SOURCE...: true if TARGET exists and no SOURCE is newer.
current() {
	local target=$1 source
	shift
	[ -e "$target" ] || return 1
	for source; do
		[ "$source" -nt "$target" ] && return 1
	done
	return 0
}

# show_usage FILE: prints the comment block that opens a script (after its first line).
show_usage() { sed -n '/SPDX/d;/^# shellcheck/d;2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$1"; }

# locked NAME COMMAND...: runs COMMAND while no other process runs one under the same NAME.
locked() {
	local name=$1
	shift
	mkdir -p "$BUILD"
	(
		flock 9
		"$@"
	) 9>"$BUILD/$name.lock"
}

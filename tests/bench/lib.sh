# shellcheck shell=bash
# What the scenarios share: records (figure, command, sample...) that report reads, peers' option
# sets, and the way into the testbed. Sourced, never run.
#
# A record is one line of tab-separated fields in $RECORDS:
#   figure ID UNIT TITLE         a figure; everything below refers to its ID
#   goal ID value|ratio LIMIT    unvmm's median, or that of unvmm / peer, is to be at most LIMIT
#   goal ID value-min|ratio-min L  ... at least LIMIT
#   goal ID value-all LIMIT      every sample of unvmm's is to be at most LIMIT
#   goal ID ratio-reach L        ... not below LIMIT as far as the interval tells
#   command ID SIDE TEXT         what made it; SIDE is unvmm or peer
#   sample ID SIDE PAIR VALUE    one measurement
#   note ID TEXT                 what a reader has to know
#   point PLOT SUBJECT X METRIC VALUE  one measurement for a picture of REPORT.md; repeated ones become
#                                a median with its interval. figures.py has the pictures
#   curve ID SIDE PAIR STEP BEFORE COUNT...  events in each STEP ms, the first of which is BEFORE ms
#                                before what the curve is about; the counts are one field
#   skip REASON                  the scenario cannot run here
#   failed REASON                ... or ends before its time: a red line; what it has recorded counts
#   machine KEY TEXT             where it ran

set -euo pipefail

BENCH_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CHECKOUT=$(cd "$BENCH_DIR/../.." && pwd)
: "${BENCH_OUT:=$CHECKOUT/build/bench}" "${BENCH_PAIRS:=10}" "${SCENARIO:=$(basename "$0" .sh)}"
export BENCH_OUT BENCH_PAIRS SCENARIO
RECORDS=$BENCH_OUT/$SCENARIO.out/records
# shellcheck disable=SC2034 # used by the scenarios
BUILD=$CHECKOUT/build
# shellcheck disable=SC2034
UNVMM=${BENCH_UNVMM:-build/unvmm}
cd "$CHECKOUT"
mkdir -p "$(dirname "$RECORDS")"

say() { printf '%s\n' "bench: $*" >&2; }

# record FIELD...: one line, whatever the fields are made of.
record() {
	local IFS=$'\t'
	local line="$*"
	printf '%s\n' "${line//$'\n'/ }" >>"$RECORDS"
}

fail() {
	say "$SCENARIO: $*"
	record failed "$*"
	exit 1
}

skip() {
	record skip "$*"
	exit 0
}

# quoted WORD...: the command as one would type it.
quoted() {
	local word text=
	for word; do
		case $word in
		*[!A-Za-z0-9_./:=,@%+-]* | '') word="'${word//\'/\'\\\'\'}'" ;;
		esac
		text+=" ${word/#"$CHECKOUT/"/}"
	done
	printf '%s' "${text# }"
}

# command ID SIDE WORD...: records what made the figure.
command_of() { record command "$1" "$2" "$(quoted "${@:3}")"; }

# median: of the integers on standard input.
median() { sort -g | awk '{v[NR] = $1} END {printf "%d\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }

# peer_args FILE...: ARGS from peers/FILE.args: an option per line, what follows it on the line is
# its one value, @NAME@ in it stands for the variable NAME.
peer_args() {
	local file option value name
	ARGS=(qemu-system-x86_64)
	for file; do
		while read -r option value; do
			case $option in '' | '#'*) continue ;; esac
			while [[ $value =~ @([A-Z_]+)@ ]]; do
				name=${BASH_REMATCH[1]}
				value=${value//"@$name@"/${!name}}
			done
			ARGS+=("$option" ${value:+"$value"})
		done <"$BENCH_DIR/peers/$file.args"
	done
}

# peers_of PREFIX: the names of all option sets that begin so.
peers_of() { (cd "$BENCH_DIR/peers" && printf '%s\n' "$1"*.args | sed 's/\.args$//'); }

# software_kvm: whether this machine's KVM works without help of the CPU.
software_kvm() { ! grep -Eqw 'svm|vmx' /proc/cpuinfo; }

need_kvm() { if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then skip "no usable /dev/kvm on this machine"; fi; }

need_qemu() { command -v qemu-system-x86_64 >/dev/null || skip "qemu-system-x86_64 is not installed"; }

# enter_testbed [OPTION...]: unless we are there, runs this scenario in the testbed, with these
# options of its `run`, and ends. If the host dies, once more from the start.
enter_testbed() {
	[ -z "${TESTBED_OUTPUT-}" ] || return 0
	record machine testbed "emulated host: $(qemu-system-x86_64 --version | head -n 1), TCG, CPU with SVM"
	local status=0 lines
	lines=$(wc -l <"$RECORDS")
	for _ in 1 2; do
		status=0
		"$CHECKOUT/tests/testbed/run" --output "$BENCH_OUT/$SCENARIO.out" --timeout "${BENCH_TIMEOUT:-1500}" "$@" -- \
			env BENCH_OUT="$BENCH_OUT" BENCH_PAIRS="$BENCH_PAIRS" SCENARIO="$SCENARIO" \
			BENCH_QUICK="${BENCH_QUICK-}" bash "$BENCH_DIR/scenarios/$SCENARIO.sh" || status=$?
		# 125: the emulator lost the host's CPU (tests/testbed/README.md), whoever ran on it.
		[ "$status" = 125 ] || break
		say "$SCENARIO: the emulated host died"
		sed -i "$((lines + 1)),\$d" "$RECORDS"
	done
	exit "$status"
}

# shellcheck shell=bash source-path=SCRIPTDIR
# Guests that a scenario keeps up at the same time in the testbed and gives work to in turn, through
# a shell on each one's console. Sourced after lib.sh and counters.sh, never run.

declare -A PIDS FDS COMMANDS
RESTARTS=3 # left, of guests that died of the emulator

# guest_start NAME COMMAND...: a guest with a shell on its console, which comes and goes by fd.
guest_start() {
	local name=$1 fd
	shift
	mkfifo "$TESTBED_SCRATCH/$name.in"
	exec {fd}<>"$TESTBED_SCRATCH/$name.in"
	: >"$TESTBED_SCRATCH/$name.out"
	"$@" <&"$fd" >"$TESTBED_SCRATCH/$name.out" 2>"$TESTBED_SCRATCH/$name.err" &
	PIDS[$name]=$!
	FDS[$name]=$fd
	COMMANDS[$name]=${*@Q}
}

# guest_wait NAME REGEX SECONDS: until a line of its output matches.
guest_wait() {
	local i
	for ((i = 0; i < $3 * 20; i++)); do
		if grep -aqE "$2" "$TESTBED_SCRATCH/$1.out"; then return; fi
		kill -0 "${PIDS[$1]}" 2>/dev/null || return 1
		sleep 0.05
	done
	return 1
}

# guest_begin NAME COMMAND: the guest's shell runs COMMAND; its output is in NAME.out.
guest_begin() {
	: >"$TESTBED_SCRATCH/$1.out"
	printf '%s; echo "e""nd"\n' "$2" >&"${FDS[$1]}"
}

# guest_end NAME SECONDS: waits for its end.
guest_end() {
	guest_wait "$1" '^end' "$2" || {
		say "$1: the command does not end: $(tail -n 3 "$TESTBED_SCRATCH/$1.out")"
		return 1
	}
}

# guest_run NAME SECONDS COMMAND: both.
guest_run() { guest_begin "$1" "$3" && guest_end "$1" "$2"; }

guest_stop() {
	kill -KILL "${PIDS[$1]}" 2>/dev/null || true
	wait "${PIDS[$1]}" 2>/dev/null || true
	unset "PIDS[$1]"
	eval "exec ${FDS[$1]}>&-"
	rm -f "$TESTBED_SCRATCH/$1.in"
}

# guest_again NAME FIGURE: a guest whose kernel died is started anew, whoever's it is, and that is
# told. The emulated host now and then kills one (tests/testbed/README.md); more than a few are our
# fault.
guest_again() {
	cat "$TESTBED_SCRATCH/$1.err" "$TESTBED_SCRATCH/$1.out" >"$TESTBED_OUTPUT/$1.died.$RESTARTS"
	[ "$RESTARTS" -gt 0 ] || return 1
	RESTARTS=$((RESTARTS - 1))
	record note "$2" "the guest of $1 died and was started again"
	guest_stop "$1"
	eval "guest_start $1 ${COMMANDS[$1]}"
	guest_wait "$1" '/ #' 120
}

# best_of FIGURE TITLE UNIT NAME...: the guest, of those that boot, for which `screen NAME` prints the
# highest median, in BEST; the others are stopped. All that was seen is recorded.
best_of() {
	local figure=$1 title=$2 unit=$3 name values value best_value=""
	shift 3
	BEST=
	for name; do
		if ! guest_wait "$name" '/ #' 120; then
			record note "$figure" "screening: $name does not boot: $(tail -n 1 "$TESTBED_SCRATCH/$name.err")"
			guest_stop "$name"
			continue
		fi
		if ! values=$(for _ in $(seq "$SCREENING"); do screen "$name" || exit 1; done); then
			record note "$figure" "screening: the work does not run on $name"
			guest_stop "$name"
			continue
		fi
		value=$(median <<<"$values")
		say "$name $value $unit"
		record note "$figure" "screening: $name $value $unit ($title), n=$SCREENING"
		if [ -z "$best_value" ] || [ "$value" -gt "$best_value" ]; then
			[ -z "$BEST" ] || guest_stop "$BEST"
			BEST=$name best_value=$value
		else
			guest_stop "$name"
		fi
	done
	[ -n "$BEST" ] || fail "no option set of QEMU boots"
}

# shellcheck disable=SC2034 # used by the scenarios
SCREENING=3
[ -z "${BENCH_QUICK-}" ] || SCREENING=1
trap 'kill -KILL "${PIDS[@]}" 2>/dev/null || true' EXIT

# shellcheck shell=bash source-path=SCRIPTDIR disable=SC2034 # results are for the scenarios
# Guests that a scenario keeps up at the same time in the testbed and gives work to in turn, through
# a shell on each one's console. Sourced after lib.sh and counters.sh, never run.

declare -A PIDS FDS COMMANDS
RESTARTS=6 # left, of runs that the emulator spoils

# guest_start NAME COMMAND...: a guest with a shell on its console, which comes and goes by fd. (Its
# output is appended: guest_begin empties the file under its hands.)
guest_start() {
	local name=$1 fd
	shift
	mkfifo "$TESTBED_SCRATCH/$name.in"
	exec {fd}<>"$TESTBED_SCRATCH/$name.in"
	: >"$TESTBED_SCRATCH/$name.out"
	${TESTBED_EXACT_CPUS:+taskset -c "$TESTBED_EXACT_CPUS"} "$@" <&"$fd" >>"$TESTBED_SCRATCH/$name.out" 2>"$TESTBED_SCRATCH/$name.err" &
	PIDS[$name]=$!
	FDS[$name]=$fd
	COMMANDS[$name]=${*@Q}
}

# guest_wait NAME REGEX SECONDS: until its output matches.
guest_wait() {
	local i text
	for ((i = 0; i < $3 * 20; i++)); do
		# Processes are dear in the testbed: the shell reads and matches itself.
		text=$(<"$TESTBED_SCRATCH/$1.out") 2>/dev/null
		if [[ $text =~ $2 ]]; then return; fi
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
	guest_wait "$1" $'\nend' "$2" || {
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

# guest_again NAME FIGURE: a run that failed is repeated; a guest whose kernel died is started anew
# before, whoever's it is. That is told. The emulated host now and then kills one
# (tests/testbed/README.md); more than a few are our fault.
guest_again() {
	[ "$RESTARTS" -gt 0 ] || return 1
	RESTARTS=$((RESTARTS - 1))
	cat "$TESTBED_SCRATCH/$1.err" "$TESTBED_SCRATCH/$1.out" >"$TESTBED_OUTPUT/$1.failed.$RESTARTS"
	if kill -0 "${PIDS[$1]}" 2>/dev/null && guest_run "$1" 20 true; then
		record note "$2" "a run on $1 failed and was repeated"
		return
	fi
	record note "$2" "the guest of $1 died and was started again"
	guest_stop "$1"
	eval "guest_start $1 ${COMMANDS[$1]}"
	guest_wait "$1" '/ #' 120
}

# guest_ready NAME FIGURE: waits for its shell; if it dies before that, it is started again.
guest_ready() {
	guest_wait "$1" '/ #' 180 || guest_again "$1" "$2" ||
		fail "$1: no shell in the guest: $(tail -n 3 "$TESTBED_SCRATCH/$1.err" "$TESTBED_SCRATCH/$1.out")"
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

# counts_begin NAME, counts_end NAME: what its VMM did in between: EXITS to user space, KVM_EXITS in all,
# CPU_US of all threads without guest time, SWITCHES of threads that are no vcpus.
counts_begin() {
	local pid=${PIDS[$1]}
	BEFORE=("$(exits_of "$pid")" "$(kvm_exits "$pid")" "$(host_cpu_us "$pid")" "$(switches_of "$pid")")
}

counts_end() {
	local pid=${PIDS[$1]} cpu
	cpu=$(host_cpu_us "$pid")
	SWITCHES=$(switches_added "${BEFORE[3]}" "$(switches_of "$pid")")
	EXITS=$(($(exits_of "$pid") - BEFORE[0]))
	KVM_EXITS=$(($(kvm_exits "$pid") - BEFORE[1]))
	CPU_US=$((cpu - BEFORE[2]))
}

# run_fio NAME RW BS DEPTH MS [JOBS]: one run: IOPS, IOS (how many), MEAN_US, P99_US, and counts_end's
# for all of it; or false with a message. With QUIET the counting begins a while after the command was
# typed, for that wakes the console's thread.
run_fio() {
	local name=$1 line key=${2#rand}
	[ -n "${QUIET-}" ] || counts_begin "$name"
	guest_begin "$name" "${QUIET:+sleep 1; }sh /agents/bench-disk '' $2 $3 $4 $5ms ${6-1}"
	[ -z "${QUIET-}" ] || { sleep 0.6 && counts_begin "$name"; }
	guest_end "$name" $((60 + $5 / 400)) || return 1
	counts_end "$name"
	line=$(grep -a 'unvmm-guest: bench' "$TESTBED_SCRATCH/$name.out" || true)
	[[ $line =~ \"${key}_iops\":\ ([0-9]+) ]] && IOPS=${BASH_REMATCH[1]} || IOPS=0
	[[ $line =~ \"${key}_us\":\ ([0-9]+) ]] && MEAN_US=${BASH_REMATCH[1]}
	[[ $line =~ \"${key}_p99_us\":\ ([0-9]+) ]] && P99_US=${BASH_REMATCH[1]}
	IOS=$((IOPS * $5 / 1000))
	if [ "$IOS" -le 0 ]; then
		say "$name: no result of fio: $(tail -n 3 "$TESTBED_SCRATCH/$name.out")"
		return 1
	fi
}

# per N COUNT: COUNT / N.
per() { awk -v n="$1" -v c="$2" 'BEGIN {print c / n}'; }

# What measures stays away from what is measured.
[ -z "${TESTBED_EXACT_CPUS-}" ] || taskset -pc 0 $$ >/dev/null
SCREENING=2
[ -z "${BENCH_QUICK-}" ] || SCREENING=1
trap 'kill -KILL "${PIDS[@]}" 2>/dev/null || true' EXIT

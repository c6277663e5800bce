# shellcheck shell=bash source-path=SCRIPTDIR
# memory - what an idle guest of 128 MiB with one disk, or with one disk and a network card on a tap,
# costs its host: private memory, and context switches of threads that are not virtual CPUs. A
# micro-guest on this machine's /dev/kvm, and Linux in the testbed.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

MIB=128
IDLE_SECONDS=10
OUT=$BENCH_OUT/$SCENARIO.out
PID=

stop_guest() {
	[ -z "$PID" ] || kill -KILL "$PID" 2>/dev/null || true
	[ -z "$PID" ] || wait "$PID" 2>/dev/null || true
	PID=
}
trap stop_guest EXIT

# start_guest TEXT COMMAND...: PID runs COMMAND, which has printed TEXT.
start_guest() {
	local text=$1
	shift
	: >"$OUT/console"
	"$@" <"$OUT/silence" >"$OUT/console" 2>"$OUT/stderr" &
	PID=$!
	for _ in {1..600}; do
		if grep -q "$text" "$OUT/console"; then return; fi
		kill -0 "$PID" 2>/dev/null || fail "$1 ended: $(cat "$OUT/stderr")"
		sleep 0.1
	done
	fail "no \"$text\" from $1 within 60 s"
}

# thread_names: a listing of switches_of with names for numbers, on one line.
thread_names() {
	local tid n name
	while read -r tid n; do
		name="?"
		read -r name 2>/dev/null <"/proc/$PID/task/$tid/comm" || true
		printf '%s %s ' "$name" "$n"
	done
}

# measure_idle ID LIMIT SETTLE N TEXT COMMAND...: N guests one after the other, for two at once would
# share pages; each is up when it has printed TEXT. The first three are also watched while they idle.
measure_idle() {
	local id=$1 limit=$2 settle=$3 n=$4 text=$5 i before after private
	shift 5
	record figure "memory-$id" KiB "Private_Clean + Private_Dirty without guest RAM, $TITLE"
	record goal "memory-$id" value "$limit"
	record command "memory-$id" unvmm "$(quoted "$@") & sum of /proc/PID/smaps (counters.sh)"
	record figure "switches-$id" switches "of all threads but vcpus in $IDLE_SECONDS s, $TITLE"
	record goal "switches-$id" value 0
	record command "switches-$id" unvmm "$(quoted "$@") & *_ctxt_switches of /proc/PID/task/*/status (counters.sh)"
	for i in $(seq "$n"); do
		start_guest "$text" "$@"
		sleep "$settle"
		private=$(private_kib "$PID" "$MIB") || fail "$1: its memory cannot be counted"
		record sample "memory-$id" unvmm "$i" "$private"
		[ "$i" != 1 ] || record note "memory-$id" "largest (private KiB, mapping, its size): $(largest_mappings "$PID")"
		if [ "$i" -le 3 ]; then
			before=$(switches_of "$PID")
			sleep "$IDLE_SECONDS"
			after=$(switches_of "$PID")
			record sample "switches-$id" unvmm "$i" "$(switches_added "$before" "$after")"
			[ "$before" = "$after" ] || record note "switches-$id" \
				"threads: $(echo "$before" | thread_names), then $(echo "$after" | thread_names)"
		fi
		stop_guest
	done
}

# Standard input that never says anything and never ends.
rm -f "$OUT/silence"
SCRATCH=${TESTBED_SCRATCH-$OUT}
mkdir -p "$SCRATCH"
truncate -s 16M "$SCRATCH/disk.img"

if [ -z "${TESTBED_OUTPUT-}" ]; then
	mkfifo "$OUT/silence"
	exec {silence}<>"$OUT/silence"
	if [ -r /dev/kvm ] && [ -w /dev/kvm ]; then
		TITLE="$MIB MiB, 1 vCPU, 1 disk, halted micro-guest"
		# A copy: pages that another unvmm on this machine maps too would not be private.
		cp "$UNVMM" "$OUT/unvmm"
		measure_idle micro 1536 0.3 "$BENCH_PAIRS" i "$OUT/unvmm" run -k build/bench/idle.elf -m ${MIB}M -o pit=false \
			-d "$SCRATCH/disk.img"
		record note memory-micro "the program is a copy of build/unvmm, so that nobody shares its pages"
	fi
	exec {silence}>&-
	enter_testbed
fi
# In the testbed: the output folder is a 9p share, which has no FIFOs that work.
OUT=$TESTBED_SCRATCH
mkfifo "$OUT/silence"
exec {silence}<>"$OUT/silence"
# 6 s: the kernel's io_uring workers end when they had nothing to do for 5.
TITLE="$MIB MiB, 1 vCPU, 1 disk, idle Linux"
measure_idle linux 1536 6 3 'unvmm-guest: idle' "$UNVMM" run -k "$TESTBED_KERNEL_CLOUD" \
	-i "$TESTBED_INITRD_CLOUD" -a "console=ttyS0 quiet panic=-1 agent=idle:600" -m ${MIB}M \
	-d "$SCRATCH/disk.img"

TITLE="$MIB MiB, 1 vCPU, 1 disk, 1 card on a tap, idle Linux"
modprobe tun
ip tuntap add dev tap0 mode tap
ip addr add 10.77.0.1/24 dev tap0
ip link set tap0 up
measure_idle linux-net 2048 6 3 'unvmm-guest: idle' "$UNVMM" run -k "$TESTBED_KERNEL_CLOUD" \
	-i "$TESTBED_INITRD_CLOUD" -a "console=ttyS0 quiet panic=-1 agent=netup:10.77.0.2:10.77.0.1 agent=idle:600" \
	-m ${MIB}M -d "$SCRATCH/disk.img" -o nets.0.tap=tap0

# shellcheck shell=bash source-path=SCRIPTDIR
# memory - what an idle guest of 128 MiB with one disk, or with one disk and a network card on a tap,
# costs its host: private memory, its keeper's included, and context switches of threads that are not
# virtual CPUs. A micro-guest on this machine's /dev/kvm, and Linux in the testbed.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

# shellcheck disable=SC2034 # the peer's option set names it
MEM=128M
MIB=128
IDLE_SECONDS=10
IDLE_WINDOWS=3
LINUX_GUESTS=2
[ -z "${BENCH_QUICK-}" ] || { IDLE_SECONDS=2 IDLE_WINDOWS=1 LINUX_GUESTS=1; }
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

# measure_idle ID LIMIT SETTLE N GROUP TEXT COMMAND...: N guests one after the other, for two at once
# would share pages; each is up when it has printed TEXT. The first ones are also watched while they
# idle. GROUP is what the picture calls it.
measure_idle() {
	local id=$1 limit=$2 settle=$3 n=$4 group=$5 text=$6 i before after private keeper
	shift 6
	record figure "memory-$id" KiB "Private_Clean + Private_Dirty without guest RAM, $TITLE"
	record goal "memory-$id" value "$limit"
	record command "memory-$id" unvmm "$(quoted "$@") & sum of /proc/PID/smaps (counters.sh)"
	record figure "switches-$id" switches "of all threads but vcpus in $IDLE_SECONDS s, $TITLE"
	record goal "switches-$id" value-all 0
	record command "switches-$id" unvmm "$(quoted "$@") & *_ctxt_switches of /proc/PID/task/*/status (counters.sh)"
	for i in $(seq "$n"); do
		start_guest "$text" "$@"
		sleep "$settle"
		private=$(private_kib "$PID" "$MIB") || fail "$1: its memory cannot be counted"
		keeper=$(keeper_kib "$PID")
		record sample "memory-$id" unvmm "$i" $((private + keeper))
		record point memory unvmm "$group" value $((private + keeper))
		[ "$i" != 1 ] || record note "memory-$id" \
			"of it $keeper KiB are the keeper's; largest (private KiB, mapping, its size): $(largest_mappings "$PID")"
		if [ "$i" -le "$IDLE_WINDOWS" ]; then
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

# measure_peer GROUP: the same micro-guest under QEMU's microvm, for the picture.
measure_peer() {
	local private
	# shellcheck disable=SC2034 # the option set names them
	KERNEL=build/bench/idle.elf DISK=$SCRATCH/disk.img
	peer_args common memory-microvm
	record command memory-micro peer "$(quoted "${ARGS[@]}")"
	for i in $(seq "$LINUX_GUESTS"); do
		start_guest i "${ARGS[@]}"
		sleep 0.5
		private=$(private_kib "$PID" "$MIB") || fail "$1: its memory cannot be counted"
		record sample memory-micro peer "$i" "$private"
		record point memory microvm "$1" value "$private"
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
		measure_idle micro 1536 0.3 "$BENCH_PAIRS" "micro-guest" i "$OUT/unvmm" run -k build/bench/idle.elf -m ${MIB}M -o pit=false \
			-d "$SCRATCH/disk.img"
		if command -v qemu-system-x86_64 >/dev/null; then measure_peer "micro-guest"; fi
		record note memory-micro "the program is a copy of build/unvmm, so that nobody shares its pages"
	fi
	exec {silence}>&-
	need_qemu
	enter_testbed --cpus 1
fi
# In the testbed: the output folder is a 9p share, which has no FIFOs that work.
OUT=$TESTBED_SCRATCH
mkfifo "$OUT/silence"
exec {silence}<>"$OUT/silence"
# 6 s: the kernel's io_uring workers end when they had nothing to do for 5.
TITLE="$MIB MiB, 1 vCPU, 1 disk, idle Linux"
measure_idle linux 1536 6 "$LINUX_GUESTS" "Linux, 1 disk" 'unvmm-guest: idle' "$UNVMM" run -k "$TESTBED_KERNEL_CLOUD" \
	-i "$TESTBED_INITRD_CLOUD" -a "console=ttyS0 quiet panic=-1 agent=idle:600" -m ${MIB}M \
	-d "$SCRATCH/disk.img"

TITLE="$MIB MiB, 1 vCPU, 1 disk, 1 card on a tap, idle Linux"
modprobe tun
ip tuntap add dev tap0 mode tap
ip addr add 10.77.0.1/24 dev tap0
ip link set tap0 up
measure_idle linux-net 2048 6 "$LINUX_GUESTS" "Linux, 1 disk, 1 card" 'unvmm-guest: idle' "$UNVMM" run -k "$TESTBED_KERNEL_CLOUD" \
	-i "$TESTBED_INITRD_CLOUD" -a "console=ttyS0 quiet panic=-1 agent=netup:10.77.0.2:10.77.0.1 agent=idle:600" \
	-m ${MIB}M -d "$SCRATCH/disk.img" -o nets.0.tap=tap0

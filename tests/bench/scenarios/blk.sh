# shellcheck shell=bash source-path=SCRIPTDIR
# blk - virtio-blk in the testbed: rate, exits to user space and host CPU per I/O of fio in a Linux
# guest, against QEMU with the same cache mode: "direct" on a RAM disk of the host with O_DIRECT,
# "cached" on a file through the host's page cache. All guests are up at once, but only one works.
# QEMU's microvm takes part with PCI only: the guest's initial RAM disk has no virtio-mmio.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
enter_testbed
MEM=128M
DISK_MIB=64
SECONDS_EACH=2
KERNEL=$TESTBED_KERNEL_CLOUD
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
# shellcheck disable=SC2034 # compare() uses them by name
CASES_direct=(randread:1 randread:16 randwrite:1 randwrite:16)
# shellcheck disable=SC2034
CASES_cached=(randread:16 randwrite:16)
SCREENING=3
[ -z "${BENCH_QUICK-}" ] || SCREENING=1

declare -A PIDS FDS

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

guest_stop() {
	kill -KILL "${PIDS[$1]}" 2>/dev/null || true
	wait "${PIDS[$1]}" 2>/dev/null || true
	unset "PIDS[$1]"
}

# guest_fio NAME RW DEPTH: IOPS, EXITS and CPU_MS of one run; or false with a message.
guest_fio() {
	local name=$1 pid=${PIDS[$1]} exits all cpu key line
	: >"$TESTBED_SCRATCH/$name.out"
	exits=$(exits_of "$pid")
	all=$(exits_by_reason "$pid")
	cpu=$(host_cpu_ms "$pid")
	printf 'sh /agents/bench-disk "" %s 4k %s %s; echo "e""nd"\n' "$2" "$3" "$SECONDS_EACH" >&"${FDS[$name]}"
	if ! guest_wait "$name" '^end' 60; then
		say "$name: no end of fio: $(tail -n 3 "$TESTBED_SCRATCH/$name.out")"
		return 1
	fi
	EXITS=$(($(exits_of "$pid") - exits))
	# The console alone makes some: without any, nothing was counted.
	[ "$all" != "$(exits_by_reason "$pid")" ] || fail "$name: kvm_userspace_exit does not count"
	CPU_MS=$(awk -v a="$cpu" -v b="$(host_cpu_ms "$pid")" 'BEGIN {print b - a}')
	key=${2#rand}_iops
	line=$(grep -a 'unvmm-guest: bench' "$TESTBED_SCRATCH/$name.out" || true)
	IOPS=$(sed -n "s/.*\"$key\": \([0-9]*\).*/\1/p" <<<"$line")
	if [ "${IOPS:-0}" -le 0 ]; then
		say "$name: no result of fio: $(tail -n 3 "$TESTBED_SCRATCH/$name.out")"
		return 1
	fi
}

# new_disk MODE: the path of a disk of its own, written once from end to end.
new_disk() {
	local disk
	if [ "$1" = direct ]; then
		disk=/dev/ram$NEXT_DISK
	else
		disk=$TESTBED_SCRATCH/disk$NEXT_DISK.img
	fi
	dd if=/dev/zero of="$disk" bs=1M count="$DISK_MIB" status=none
	DISK=$disk
	NEXT_DISK=$((NEXT_DISK + 1))
}

# per_io COUNT: divided by the I/Os of the last run.
per_io() { awk -v c="$1" -v iops="$IOPS" -v s="$SECONDS_EACH" 'BEGIN {print c / (iops * s)}'; }

# record_run MODE CASE SIDE PAIR: what guest_fio left.
record_run() {
	local id=blk-$1-${2/:/-}
	record sample "$id-iops" "$3" "$4" "$IOPS"
	record sample "$id-exits" "$3" "$4" "$(per_io "$EXITS")"
	record sample "$id-cpu" "$3" "$4" "$(per_io "$(awk -v ms="$CPU_MS" 'BEGIN {print ms * 1000}')")"
}

# describe MODE CASE FIGURE UNIT GOAL TITLE
describe() {
	local id=blk-$1-${2/:/-}-$3
	record figure "$id" "$4" "$6, $1, ${2%:*} 4k, depth ${2#*:}"
	# shellcheck disable=SC2086
	record goal "$id" $5
	record command "$id" unvmm "$(quoted "${UNVMM_ARGS[@]}") # guest: bench-disk:blk0:${2%:*}:4k:${2#*:}:$SECONDS_EACH"
	record command "$id" peer "$(quoted "${PEER_ARGS[@]}") # guest: the same"
}

compare() {
	local mode=$1 direct=$2 set best="" best_value="" case pair values value
	local -n cases=CASES_$mode
	local -A args=()
	new_disk "$mode"
	UNVMM_ARGS=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -d "$DISK,direct=$direct")
	guest_start unvmm "${UNVMM_ARGS[@]}"
	for set in $(peers_of "blk-$mode-"); do
		new_disk "$mode"
		peer_args common "$set"
		args[$set]=$(declare -p ARGS)
		guest_start "$set" "${ARGS[@]}"
	done
	guest_wait unvmm userspace 120 || fail "unvmm: $(cat "$TESTBED_SCRATCH/unvmm.err")"
	guest_wait unvmm '/ #' 60 || fail "unvmm: no shell in the guest"
	guest_fio unvmm randread 16 || exit 1

	for set in $(peers_of "blk-$mode-"); do
		if ! guest_wait "$set" '/ #' 120; then
			record note "blk-$mode" "screening: $set does not boot: $(tail -n 1 "$TESTBED_SCRATCH/$set.err")"
			guest_stop "$set"
			continue
		fi
		if ! values=$(for _ in $(seq "$SCREENING"); do guest_fio "$set" randread 16 || exit 1; echo "$IOPS"; done); then
			record note "blk-$mode" "screening: fio does not run on $set"
			guest_stop "$set"
			continue
		fi
		value=$(median <<<"$values")
		say "$set $value IOPS"
		record note "blk-$mode" "screening: $set $value IOPS (randread 4k, depth 16), n=$SCREENING"
		if [ -z "$best_value" ] || [ "$value" -gt "$best_value" ]; then
			[ -z "$best" ] || guest_stop "$best"
			best=$set best_value=$value
		else
			guest_stop "$set"
		fi
	done
	[ -n "$best" ] || fail "no option set of QEMU boots"
	eval "${args[$best]}"
	PEER_ARGS=("${ARGS[@]}")

	for case in "${cases[@]}"; do
		describe "$mode" "$case" iops IOPS "ratio-min 1" "rate"
		describe "$mode" "$case" exits exits/IO "ratio 1" "exits to user space per I/O, without the console's"
		describe "$mode" "$case" cpu us/IO "ratio 1" "host CPU per I/O, all threads, without guest time"
		for pair in $(seq "$BENCH_PAIRS"); do
			guest_fio unvmm "${case%:*}" "${case#*:}" || exit 1
			record_run "$mode" "$case" unvmm "$pair"
			guest_fio "$best" "${case%:*}" "${case#*:}" || exit 1
			record_run "$mode" "$case" peer "$pair"
		done
	done
	guest_stop unvmm
	guest_stop "$best"
	rm -f "$TESTBED_SCRATCH"/*.in
}

trap 'kill -KILL "${PIDS[@]}" 2>/dev/null || true' EXIT
exits_enable || fail "this kernel does not count kvm_userspace_exit"
modprobe brd rd_nr=8 rd_size=$((DISK_MIB * 1024)) || fail "no RAM disk: module brd"
for mode in direct cached; do
	record figure "blk-$mode" "" "option sets of QEMU, $mode"
done
NEXT_DISK=0
compare direct true
NEXT_DISK=0
compare cached false

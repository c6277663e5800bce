# shellcheck shell=bash source-path=SCRIPTDIR
# blk - virtio-blk in the testbed: rate, exits to user space and host CPU per I/O of fio in a Linux
# guest, against QEMU with the same cache mode: "direct" on a RAM disk of the host with O_DIRECT,
# "cached" on a file through the host's page cache. All guests are up at once, but only one works.
# QEMU's microvm takes part with PCI only: the guest's initial RAM disk has no virtio-mmio.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
enter_testbed
. "$BENCH_DIR/guests.sh"
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
# guest_fio NAME RW DEPTH: IOPS, EXITS and CPU_MS of one run; or false with a message.
guest_fio() {
	local name=$1 pid=${PIDS[$1]} exits all cpu key line
	exits=$(exits_of "$pid")
	all=$(exits_by_reason "$pid")
	cpu=$(host_cpu_ms "$pid")
	guest_run "$name" 60 "sh /agents/bench-disk '' $2 4k $3 $SECONDS_EACH" || return 1
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

# screen NAME: what its option set is chosen by. (best_of)
screen() { guest_fio "$1" randread 16 && echo "$IOPS"; }

compare() {
	local mode=$1 direct=$2 set case pair side sets
	local -n cases=CASES_$mode
	local -A args=()
	new_disk "$mode"
	UNVMM_ARGS=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -o on_reboot=exit
		-d "$DISK,direct=$direct")
	guest_start unvmm "${UNVMM_ARGS[@]}"
	mapfile -t sets < <(peers_of "blk-$mode-")
	for set in "${sets[@]}"; do
		new_disk "$mode"
		peer_args common "$set"
		args[$set]=$(declare -p ARGS)
		guest_start "$set" "${ARGS[@]}"
	done
	guest_wait unvmm userspace 120 || fail "unvmm: $(cat "$TESTBED_SCRATCH/unvmm.err")"
	guest_wait unvmm '/ #' 60 || fail "unvmm: no shell in the guest"
	screen unvmm >/dev/null || exit 1
	best_of "blk-$mode" "randread 4k, depth 16" IOPS "${sets[@]}"
	eval "${args[$BEST]}"
	PEER_ARGS=("${ARGS[@]}")

	for case in "${cases[@]}"; do
		describe "$mode" "$case" iops IOPS "ratio-min 1" "rate"
		describe "$mode" "$case" exits exits/IO "ratio 1" "exits to user space per I/O, without the console's"
		describe "$mode" "$case" cpu us/IO "ratio 1" "host CPU per I/O, all threads, without guest time"
		for pair in $(seq "$BENCH_PAIRS"); do
			for side in unvmm "$BEST"; do
				until guest_fio "$side" "${case%:*}" "${case#*:}"; do
					guest_again "$side" "blk-$mode" || fail "$side: its guests die"
				done
				[ "$side" = unvmm ] || side=peer
				record_run "$mode" "$case" "$side" "$pair"
			done
		done
	done
	guest_stop unvmm
	guest_stop "$BEST"
}

exits_enable || fail "this kernel does not count kvm_userspace_exit"
modprobe brd rd_nr=8 rd_size=$((DISK_MIB * 1024)) || fail "no RAM disk: module brd"
for mode in direct cached; do
	record figure "blk-$mode" "" "option sets of QEMU, $mode"
done
NEXT_DISK=0
compare direct true
NEXT_DISK=0
compare cached false

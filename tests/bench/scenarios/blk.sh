# shellcheck shell=bash source-path=SCRIPTDIR
# blk - virtio-blk in the testbed: rate, exits to user space and host CPU per I/O of fio in a Linux
# guest, against QEMU with the same cache mode: "direct" on a RAM disk of the host with O_DIRECT,
# "cached" on a file through the host's page cache. All guests are up at once, but only one works.
# QEMU's microvm takes part with PCI only: the guest's initial RAM disk has no virtio-mmio.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
# shellcheck disable=SC2119 # no options
enter_testbed
. "$BENCH_DIR/guests.sh"
MEM=128M
DISK_MIB=64
MS=1000
KERNEL=$TESTBED_KERNEL_CLOUD
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
# shellcheck disable=SC2034 # compare() uses them by name
CASES_direct=(randread:1 randread:16 randwrite:1 randwrite:16)
# shellcheck disable=SC2034
CASES_cached=(randwrite:16)
MODES=(direct cached)
# shellcheck disable=SC2034
[ -z "${BENCH_QUICK-}" ] || { MS=500 MODES=(direct) CASES_direct=(randread:16); }

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

# record_run MODE CASE SIDE PAIR: what run_fio left.
record_run() {
	local id=blk-$1-${2/:/-}
	record sample "$id-iops" "$3" "$4" "$IOPS"
	record sample "$id-exits" "$3" "$4" "$(per "$IOS" "$EXITS")"
	record sample "$id-cpu" "$3" "$4" "$(per "$IOS" "$CPU_US")"
}

# describe MODE CASE FIGURE UNIT GOAL TITLE
describe() {
	local id=blk-$1-${2/:/-}-$3
	record figure "$id" "$4" "$6, $1, ${2%:*} 4k, depth ${2#*:}"
	# shellcheck disable=SC2086
	record goal "$id" $5
	record command "$id" unvmm "$(quoted "${UNVMM_ARGS[@]}") # guest: bench-disk:blk0:${2%:*}:4k:${2#*:}:${MS}ms"
	record command "$id" peer "$(quoted "${PEER_ARGS[@]}") # guest: the same"
}

# screen NAME: what its option set is chosen by. (best_of)
screen() { run_fio "$1" randread 4k 16 "$MS" && echo "$IOPS"; }

compare() {
	local mode=$1 direct=$2 set case pair side sets
	local -n cases=CASES_$mode
	local -A args=()
	new_disk "$mode"
	UNVMM_ARGS=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -o on_reboot=exit
		-d "$DISK,direct=$direct")
	guest_start unvmm "${UNVMM_ARGS[@]}"
	mapfile -t sets < <(peers_of "blk-$mode-")
	[ -z "${BENCH_QUICK-}" ] || sets=("${sets[@]:1:1}")
	for set in "${sets[@]}"; do
		new_disk "$mode"
		peer_args common "$set"
		args[$set]=$(declare -p ARGS)
		guest_start "$set" "${ARGS[@]}"
	done
	guest_ready unvmm "blk-$mode"
	screen unvmm >/dev/null || fail "unvmm: fio does not run"
	best_of "blk-$mode" "randread 4k, depth 16" IOPS "${sets[@]}"
	eval "${args[$BEST]}"
	PEER_ARGS=("${ARGS[@]}")

	for case in "${cases[@]}"; do
		describe "$mode" "$case" iops IOPS "ratio-min 1" "rate"
		describe "$mode" "$case" exits exits/IO "ratio 1" "exits to user space per I/O, without the console's"
		describe "$mode" "$case" cpu us/IO "ratio 1" "host CPU per I/O, all threads, without guest time"
		for pair in $(seq "$BENCH_PAIRS"); do
			for side in unvmm "$BEST"; do
				until run_fio "$side" "${case%:*}" 4k "${case#*:}" "$MS"; do
					guest_again "$side" "blk-$mode" || fail "$side: its guests die"
				done
				[ "$side" = unvmm ] || side=peer
				record_run "$mode" "$case" "$side" "$pair"
			done
		done
	done
	# The console alone makes some: without any, nothing was counted.
	[ -n "$(exits_by_reason "${PIDS[unvmm]}")" ] || fail "kvm_userspace_exit does not count"
	guest_stop unvmm
	guest_stop "$BEST"
}

exits_enable || fail "this kernel does not count kvm_userspace_exit"
modprobe brd rd_nr=8 rd_size=$((DISK_MIB * 1024)) || fail "no RAM disk: module brd"
for mode in "${MODES[@]}"; do
	record figure "blk-$mode" "" "option sets of QEMU, $mode"
	NEXT_DISK=0
	direct=true
	[ "$mode" = direct ] || direct=false
	compare "$mode" "$direct"
done

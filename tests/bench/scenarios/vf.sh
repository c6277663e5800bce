# shellcheck shell=bash source-path=SCRIPTDIR
# vf - an assigned block function in the testbed: fio in the same Linux guest under unvmm and under
# QEMU's vfio-pci, and on the disk that each of them emulates on top of a function of the same kind
# that the host drives itself. All guests are up at once, but only one works. Exits to user space are
# counted over at least 10,000 I/Os, and over as long a time without any.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
HOST_ARGS=(--mem 6G --vf "blk,serial=vf0" --vf "blk,serial=vf1" --vf "blk,serial=vf2" --vf "blk,serial=vf3")
enter_testbed "${HOST_ARGS[@]}"
. "$BENCH_DIR/guests.sh"
# shellcheck disable=SC2034 # the peers' option sets name them
MEM=128M
# shellcheck disable=SC2034
KERNEL=$TESTBED_KERNEL_CLOUD
# shellcheck disable=SC2034
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
CASES=(randread:1 randread:16 randwrite:1 randwrite:16)
IOS=10000
EMULATED_RUNS=3
[ -z "${BENCH_QUICK-}" ] || { IOS=2000 EMULATED_RUNS=1; }

# host_disk N: the block device that the host's own driver makes of function N.
host_disk() {
	local address=TESTBED_VF$1 disk
	build/unvmm vf unbind "${!address}" >&2 || fail "function ${!address} cannot be given to the host"
	for _ in {1..100}; do
		for disk in "/sys/bus/pci/devices/${!address}"/virtio*/block/*; do
			[ -e "$disk" ] || continue
			echo "/dev/${disk##*/}"
			return
		done
		sleep 0.1
	done
	fail "the host makes no disk of ${!address}"
}

# kvm_exits PID: of its VM, those that the kernel served included.
kvm_exits() { cat "/sys/kernel/debug/kvm/$1"-*/exits; }

# run_fio NAME RW DEPTH SECONDS: IOPS, IOS_DONE, USER_EXITS, KVM, SWITCHES, CPU_US of one run; or false.
# The window begins when the command has been typed, for that wakes the console's thread.
run_fio() {
	local name=$1 pid=${PIDS[$1]} user kvm cpu switches key line
	guest_begin "$name" "sleep 1; sh /agents/bench-disk '' $2 4k $3 $4"
	sleep 0.6
	user=$(exits_of "$pid") kvm=$(kvm_exits "$pid") cpu=$(host_cpu_ms "$pid") switches=$(switches_of "$pid")
	guest_end "$name" $((60 + 2 * $4)) || return 1
	SWITCHES=$(switches_added "$switches" "$(switches_of "$pid")")
	USER_EXITS=$(($(exits_of "$pid") - user))
	KVM=$(($(kvm_exits "$pid") - kvm))
	CPU_US=$(awk -v a="$cpu" -v b="$(host_cpu_ms "$pid")" 'BEGIN {print (b - a) * 1000}')
	key=${2#rand}_iops
	line=$(grep -a 'unvmm-guest: bench' "$TESTBED_SCRATCH/$name.out" || true)
	IOPS=$(sed -n "s/.*\"$key\": \([0-9]*\).*/\1/p" <<<"$line")
	IOS_DONE=$((${IOPS:-0} * $4))
	[ "$IOS_DONE" -gt 0 ] || {
		say "$name: no result of fio: $(tail -n 3 "$TESTBED_SCRATCH/$name.out")"
		return 1
	}
}

# seconds_for NAME RW DEPTH: how long it takes to do IOS.
seconds_for() {
	run_fio "$@" 2 && awk -v n="$IOS" -v r="$IOPS" 'BEGIN {s = int(n * 1.25 / r) + 1; print s < 2 ? 2 : s}'
}

per_io() { awk -v n="$1" -v ios="$IOS_DONE" 'BEGIN {print n / ios}'; }

# figure ID UNIT TITLE GOAL...: with the commands of both sides.
figure() {
	local id=$1
	record figure "$id" "$2" "$3"
	shift 3
	[ $# = 0 ] || record goal "$id" "$@"
	record command "$id" unvmm "$(quoted "${UNVMM_ARGS[@]}")"
	record command "$id" peer "$(quoted "${PEER_ARGS[@]}")"
}

exits_enable || fail "this kernel does not count kvm_userspace_exit"
[ -e /sys/kernel/debug/kvm ] || mount -t debugfs debugfs /sys/kernel/debug || fail "no debugfs"
modprobe virtio_blk
disk_unvmm=$(host_disk 2)
disk_qemu=$(host_disk 3)
for disk in "$disk_unvmm" "$disk_qemu"; do [ -b "$disk" ] || fail "$disk: no disk"; done

UNVMM_ARGS=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -o on_reboot=exit
	-o "vfs.0.pci=$TESTBED_VF0")
guest_start unvmm "${UNVMM_ARGS[@]}"
# shellcheck disable=SC2034
VF=$TESTBED_VF1
peer_args common vf-q35
PEER_ARGS=("${ARGS[@]}")
guest_start qemu "${PEER_ARGS[@]}"
guest_start unvmm-emulated "$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" \
	-o on_reboot=exit -d "$disk_unvmm,direct=true"
# shellcheck disable=SC2034
DISK=$disk_qemu
peer_args common blk-direct-q35-native
guest_start qemu-emulated "${ARGS[@]}"
for guest in unvmm qemu unvmm-emulated qemu-emulated; do
	guest_wait "$guest" '/ #' 180 || fail "$guest: no shell in the guest: $(cat "$TESTBED_SCRATCH/$guest.err")"
done

for case in "${CASES[@]}"; do
	rw=${case%:*} depth=${case#*:} id=vf-${case/:/-}
	title="$rw 4k, depth $depth"
	seconds=$(seconds_for unvmm "$rw" "$depth") || fail "unvmm: fio does not run"
	figure "$id-iops" IOPS "rate, $title" ratio-reach 1
	figure "$id-user" exits "to user space over at least $IOS I/Os, less those of as long an idle time: $title" value 0
	figure "$id-switches" switches "of threads that are no vcpus, over these I/Os: $title" value 0
	figure "$id-kvm" exits/IO "all KVM exits: $title" ratio 1
	figure "$id-cpu" us/IO "host CPU, all threads, without guest time: $title" ratio 1
	for guest in unvmm qemu; do
		figure "$id-cpu-$guest-emulated" us/IO "host CPU: the function, and the disk that $guest emulates: $title" ratio 0.6
		record command "$id-cpu-$guest-emulated" peer "$(eval "quoted ${COMMANDS[$guest-emulated]}")"
	done
	for pair in $(seq "$BENCH_PAIRS"); do
		for guest in unvmm qemu unvmm-emulated qemu-emulated; do
			case $guest in *-emulated) [ "$pair" -le "$EMULATED_RUNS" ] || continue ;; esac
			idle=$(exits_of "${PIDS[$guest]}")
			[ "$guest" != unvmm ] || [ "$pair" -gt 3 ] || sleep "$seconds"
			idle=$(($(exits_of "${PIDS[$guest]}") - idle))
			until run_fio "$guest" "$rw" "$depth" "$seconds"; do
				guest_again "$guest" "$id-iops" || fail "$guest: its guests die"
			done
			cpu=$(per_io "$CPU_US")
			case $guest in
			unvmm | qemu)
				side=peer
				[ "$guest" != unvmm ] || side=unvmm
				record sample "$id-iops" "$side" "$pair" "$IOPS"
				record sample "$id-user" "$side" "$pair" $((USER_EXITS - idle))
				record sample "$id-switches" "$side" "$pair" "$SWITCHES"
				record sample "$id-kvm" "$side" "$pair" "$(per_io "$KVM")"
				record sample "$id-cpu" "$side" "$pair" "$cpu"
				[ "$guest:$pair" != unvmm:1 ] || record note "$id-user" \
					"the first window: $IOS_DONE I/Os, $USER_EXITS exits; idle: $idle; all KVM exits: $KVM"
				[ "$guest" != unvmm ] || for peer in unvmm qemu; do
					record sample "$id-cpu-$peer-emulated" unvmm "$pair" "$cpu"
				done
				;;
			*) record sample "$id-cpu-$guest" peer "$pair" "$cpu" ;;
			esac
		done
	done
done
for guest in "${!PIDS[@]}"; do guest_stop "$guest"; done

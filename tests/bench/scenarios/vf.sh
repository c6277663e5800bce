# shellcheck shell=bash source-path=SCRIPTDIR disable=SC2034 # option sets name variables
# vf - an assigned block function in the testbed: fio in the same Linux guest under unvmm and under
# QEMU's vfio-pci, and on the disk that each of them emulates (QEMU without and with an iothread) on
# top of a function of the same kind that the host drives itself. All guests are up at once, but only
# one works. First what must be reached, then a sweep over depths, sizes and queues for the picture.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
SUBJECTS=(vf qemu-vfio emulated qemu-emulated qemu-iothread)
EMULATED=(emulated qemu-emulated) # those that a goal is about
[ -z "${BENCH_QUICK-}" ] || SUBJECTS=(vf qemu-vfio emulated) EMULATED=(emulated)
HOST_ARGS=(--mem 6G --exact-time)
for i in "${!SUBJECTS[@]}"; do HOST_ARGS+=(--vf "blk,serial=vf$i"); done
enter_testbed "${HOST_ARGS[@]}"
. "$BENCH_DIR/guests.sh"
MEM=128M
KERNEL=$TESTBED_KERNEL_CLOUD
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
CASES=(randread:1 randread:16 randwrite:1 randwrite:16)
IOS_COUNTED=10000
MS=1000
EMULATED_RUNS=2
DEPTHS=(1 4 16 32)
SWEEP_QUEUES=(1 2)
SWEEP_ROUNDS=(0 1 1) # by the number of queues
SWEEP_MS=600
[ -z "${BENCH_QUICK-}" ] || { CASES=(randread:16) IOS_COUNTED=1000 MS=500 EMULATED_RUNS=1
	DEPTHS=(1 16) SWEEP_QUEUES=(1) SWEEP_ROUNDS=(0 1) SWEEP_MS=500; }

# host_disk N: DISK, the block device that the host's own driver makes of function N.
host_disk() {
	local address=TESTBED_VF$1 found
	if [ -e "/sys/bus/pci/devices/${!address}/driver" ] &&
		[[ $(readlink "/sys/bus/pci/devices/${!address}/driver") = *vfio-pci ]]; then
		build/unvmm vf unbind "${!address}" >&2 || fail "function ${!address} cannot be given to the host"
	fi
	for _ in {1..100}; do
		for found in "/sys/bus/pci/devices/${!address}"/virtio*/block/*; do
			[ -e "$found" ] || continue
			DISK=/dev/${found##*/}
			[ -b "$DISK" ] || fail "$DISK: no disk"
			return
		done
		sleep 0.1
	done
	fail "the host makes no disk of ${!address}"
}

# start NAME VCPUS: a guest with as many queues.
start() {
	local unvmm=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -c "$2" -o on_reboot=exit)
	VF=$TESTBED_VF1
	case $1 in
	emulated) host_disk 2 ;;
	qemu-emulated) host_disk 3 ;;
	qemu-iothread) host_disk 4 ;;
	esac
	case $1 in
	vf) guest_start vf "${unvmm[@]}" -o "vfs.0.pci=$TESTBED_VF0" -o "vfs.0.queues=$2" && return ;;
	emulated) guest_start emulated "${unvmm[@]}" -d "$DISK,direct=true,queues=$2" && return ;;
	qemu-vfio) peer_args common vf-q35 ;;
	qemu-emulated) peer_args common blk-direct-q35-native ;;
	qemu-iothread) peer_args common blk-direct-q35-iothread-native ;;
	esac
	guest_start "$1" "${ARGS[@]}" -smp "$2"
}

# fio_on NAME FIGURE RW BS DEPTH MS [JOBS]: run_fio, in a new guest if the old one died.
fio_on() {
	local name=$1 figure=$2
	shift 2
	until run_fio "$name" "$@"; do
		guest_again "$name" "$figure" || fail "$name: its guests die"
	done
}

# points RW BS DEPTH QUEUES NAME: of the last run, for the picture.
points() {
	local plot=storage-$1-$2-q$4
	record point "$plot" "$5" "$3" iops "$IOPS"
	record point "$plot" "$5" "$3" mean_us "$MEAN_US"
	record point "$plot" "$5" "$3" p99_us "$P99_US"
	record point "$plot" "$5" "$3" cpu_us "$(per "$IOS" "$CPU_US")"
	record point "$plot" "$5" "$3" exits "$(per "$IOS" "$EXITS")"
}

# figure ID UNIT TITLE GOAL...: with the commands of both sides.
figure() {
	local id=$1
	record figure "$id" "$2" "$3"
	shift 3
	[ $# = 0 ] || record goal "$id" "$@"
	record command "$id" unvmm "$(eval "quoted ${COMMANDS[vf]}")"
	record command "$id" peer "$(eval "quoted ${COMMANDS[qemu-vfio]}")"
}

# counted RW DEPTH ID: exits and context switches over enough I/Os, and over as long a time without.
counted() {
	local ms idle
	fio_on vf storage "$1" 4k "$2" "$MS"
	ms=$(awk -v n=$IOS_COUNTED -v r="$IOPS" 'BEGIN {print int(n * 1300 / r) + 500}')
	counts_begin vf
	sleep "$(per 1000 "$ms")"
	counts_end vf
	idle=$EXITS
	QUIET=1 fio_on vf storage "$1" 4k "$2" "$ms"
	if [ "$IOS" -lt $IOS_COUNTED ]; then QUIET=1 fio_on vf storage "$1" 4k "$2" $((ms * 2)); fi
	record sample "$3-user" unvmm 1 $((EXITS - idle))
	record sample "$3-switches" unvmm 1 "$SWITCHES"
	record note "$3-user" "$IOS I/Os, $EXITS exits; idle: $idle; all KVM exits: $KVM_EXITS"
}

# compare RW DEPTH: what must be reached.
compare() {
	local id=vf-$1-$2 title="$1 4k, depth $2" pair name side emulated
	figure "$id-iops" IOPS "rate, $title" ratio-reach 1
	figure "$id-user" exits "to user space over at least $IOS_COUNTED I/Os, less those of as long an idle time: $title" value-all 0
	figure "$id-switches" switches "of threads that are no vcpus, over these I/Os: $title" value-all 0
	figure "$id-kvm" exits/IO "all KVM exits but the console's: $title" ratio 1
	figure "$id-cpu" us/IO "host CPU, all threads, without guest time: $title" ratio 1
	for emulated in "${EMULATED[@]}"; do
		figure "$id-cpu-$emulated" us/IO "host CPU: the function, and the disk that ${emulated/#emulated/unvmm-emulated} is: $title" ratio 0.6
		record command "$id-cpu-$emulated" peer "$(eval "quoted ${COMMANDS[$emulated]}")"
	done
	counted "$1" "$2" "$id"
	for pair in $(seq "$BENCH_PAIRS"); do
		for name in "${SUBJECTS[@]}"; do
			case $name in *emulated | *iothread) [ "$pair" -le "$EMULATED_RUNS" ] || continue ;; esac
			fio_on "$name" storage "$1" 4k "$2" "$MS"
			points "$1" 4k "$2" 1 "$name"
			side=peer
			case $name in
			*iothread) continue ;;
			*emulated)
				record sample "$id-cpu-$name" peer "$pair" "$(per "$IOS" "$CPU_US")"
				continue
				;;
			vf)
				side=unvmm
				for emulated in "${EMULATED[@]}"; do
					[ "$pair" -gt "$EMULATED_RUNS" ] ||
						record sample "$id-cpu-$emulated" unvmm "$pair" "$(per "$IOS" "$CPU_US")"
				done
				;;
			esac
			record sample "$id-iops" "$side" "$pair" "$IOPS"
			record sample "$id-kvm" "$side" "$pair" "$(per "$IOS" "$KVM_EXITS")"
			record sample "$id-cpu" "$side" "$pair" "$(per "$IOS" "$CPU_US")"
		done
	done
}

# sweep QUEUES: what the comparison has not seen.
sweep() {
	local round depth rw name
	for round in $(seq "${SWEEP_ROUNDS[$1]}"); do
		for rw in randread:4k read:128k; do
			for depth in "${DEPTHS[@]}"; do
				[[ $1 = 1 && " ${CASES[*]} " = *" ${rw%:*}:$depth "* ]] && continue
				for name in "${SUBJECTS[@]}"; do
					fio_on "$name" storage "${rw%:*}" "${rw#*:}" "$depth" "$SWEEP_MS" "$1"
					points "${rw%:*}" "${rw#*:}" "$depth" "$1" "$name"
				done
			done
		done
	done
}

exits_enable || fail "this kernel does not count kvm_userspace_exit"
[ -e /sys/kernel/debug/kvm ] || mount -t debugfs debugfs /sys/kernel/debug || fail "no debugfs"
modprobe virtio_blk
record figure storage "" "storage: the sweep for the picture"
for queues in "${SWEEP_QUEUES[@]}"; do
	for name in "${SUBJECTS[@]}"; do start "$name" "$queues"; done
	for name in "${SUBJECTS[@]}"; do guest_ready "$name" storage; done
	if [ "$queues" = 1 ]; then
		for name in "${SUBJECTS[@]}"; do
			record command storage "$name" "$(eval "quoted ${COMMANDS[$name]}")"
		done
		for case in "${CASES[@]}"; do compare "${case%:*}" "${case#*:}"; done
	fi
	sweep "$queues"
	for name in "${SUBJECTS[@]}"; do guest_stop "$name"; done
done

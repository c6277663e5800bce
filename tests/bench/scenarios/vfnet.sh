# shellcheck shell=bash source-path=SCRIPTDIR disable=SC2034 # option sets name variables
# vfnet - an assigned network function in the testbed: datagrams of 64 bytes, echoes and TCP in the
# same Linux guest under unvmm and under QEMU's vfio-pci, and on the card that each of them emulates on
# a tap, which a bridge of the host joins to a function that the host drives. Whom they talk to is
# behind the functions. No offloads anywhere, for the functions have none. All guests are up at once,
# but only one works.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
enter_testbed --mem 5G --exact-time --vf net --vf net --vf net
. "$BENCH_DIR/guests.sh"
. "$BENCH_DIR/traffic.sh"
MEM=128M
KERNEL=$TESTBED_KERNEL_CLOUD
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
SUBJECTS=(vf qemu-vfio emulated qemu-emulated)
EMULATED=(emulated qemu-emulated)
KINDS=(udp-tx udp-rx echo)
PACKETS=10000
EMULATED_RUNS=3
TCP_ROUNDS=2
[ -z "${BENCH_QUICK-}" ] || { SUBJECTS=(vf qemu-vfio) EMULATED=()
	KINDS=(udp-tx) PACKETS=1000 EMULATED_RUNS=1 TCP_ROUNDS=0; }

# bridge: the host's function and both taps.
bridge() {
	local card path
	build/unvmm vf unbind "$TESTBED_VF2" >&2 || fail "function $TESTBED_VF2 cannot be given to the host"
	for _ in {1..100}; do
		for path in "/sys/bus/pci/devices/$TESTBED_VF2"/virtio*/net/*; do
			[ ! -e "$path" ] || card=${path##*/}
		done
		[ -z "${card-}" ] || break
		sleep 0.1
	done
	[ -n "${card-}" ] || fail "the host makes no card of $TESTBED_VF2"
	modprobe -a bridge tun || fail "no bridge or tun in this host's kernel"
	ip link add br0 type bridge || fail "no bridge in this host's kernel"
	for card in "$card" tap0 tap1; do
		[ -e "/sys/class/net/$card" ] || ip tuntap add dev "$card" mode tap
		ip link set "$card" master br0 up
	done
	ip link set br0 up
}

# figure ID UNIT TITLE GOAL...: with the commands of both sides.
figure() {
	local id=$1
	record figure "$id" "$2" "$3"
	record goal "$id" "${@:4}"
	record command "$id" unvmm "$(eval "quoted ${COMMANDS[vf]}")"
	record command "$id" peer "$(eval "quoted ${COMMANDS[qemu-vfio]}")"
}

# counted KIND ID: exits and context switches over enough packets, and over as long a time without.
counted() {
	local seconds idle
	figure "$2-user" exits "to user space over at least $PACKETS packets, less those of as long an idle time: $TITLE" value-all 0
	figure "$2-switches" switches "of threads that are no vcpus, over these packets: $TITLE" value-all 0
	net_on vf vfnet "$1"
	seconds=$(awk -v n=$PACKETS -v r="$VALUE" 'BEGIN {print int(n * 1.3 / r) + 1}')
	counts_begin vf
	sleep "$seconds"
	counts_end vf
	idle=$EXITS
	QUIET=1 net_on vf vfnet "$1" "$seconds"
	record sample "$2-user" unvmm 1 $((EXITS - idle))
	record sample "$2-switches" unvmm 1 "$SWITCHES"
	record note "$2-user" "${UNITS%.*} packets, $EXITS exits; idle: $idle; all KVM exits: $KVM_EXITS"
}

# describe KIND UNIT PER GOAL: what must be reached.
describe() {
	local id=vfnet-$1 emulated
	figure "$id-rate" "$2" "$TITLE" "$4" 1
	figure "$id-kvm" "exits/$3" "all KVM exits but the console's: $TITLE" ratio 1
	figure "$id-cpu" "us/$3" "host CPU, all threads, without guest time: $TITLE" ratio 1
	for emulated in "${EMULATED[@]}"; do
		figure "$id-cpu-$emulated" "us/$3" "host CPU: the function, and the card that ${emulated/#emulated/unvmm-emulated} is: $TITLE" ratio 0.6
		record command "$id-cpu-$emulated" peer "$(eval "quoted ${COMMANDS[$emulated]}")"
	done
	[ "$1" = echo ] || counted "$1" "$id"
}

# sample_run NAME KIND PAIR: what run_net left.
sample_run() {
	local id=vfnet-$2 side=peer cpu emulated
	cpu=$(per "$UNITS" "$CPU_US")
	net_points network-function "$1" "$2"
	case $1 in
	*emulated)
		record sample "$id-cpu-$1" peer "$3" "$cpu"
		return
		;;
	vf)
		side=unvmm
		for emulated in "${EMULATED[@]}"; do
			[ "$3" -gt "$EMULATED_RUNS" ] || record sample "$id-cpu-$emulated" unvmm "$3" "$cpu"
		done
		;;
	esac
	record sample "$id-rate" "$side" "$3" "$VALUE"
	record sample "$id-kvm" "$side" "$3" "$(per "$UNITS" "$KVM_EXITS")"
	record sample "$id-cpu" "$side" "$3" "$cpu"
}

exits_enable || fail "this kernel does not count kvm_userspace_exit"
[ -e /sys/kernel/debug/kvm ] || mount -t debugfs debugfs /sys/kernel/debug || fail "no debugfs"
modprobe virtio_net
ip netns add peer
ip link set eth0 netns peer
ip -n peer addr add 10.78.0.1/24 dev eth0
ip -n peer link set lo up
ip -n peer link set eth0 up
PEER=(ip netns exec peer)
bridge
serve

record figure vfnet "" "network: the sweep for the picture"
unvmm=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -o on_reboot=exit)
guest_start vf "${unvmm[@]}" -o "vfs.0.pci=$TESTBED_VF0"
VF=$TESTBED_VF1
peer_args common vf-q35
guest_start qemu-vfio "${ARGS[@]}"
[[ " ${SUBJECTS[*]} " != *" emulated "* ]] || guest_start emulated "${unvmm[@]}" -o nets.0.tap=tap0 -o nets.0.offload=false -o nets.0.mac=52:54:00:00:05:01
TAP=tap1
peer_args common vfnet-q35
[[ " ${SUBJECTS[*]} " != *" qemu-emulated "* ]] || guest_start qemu-emulated "${ARGS[@]}"
n=2
for name in "${SUBJECTS[@]}"; do
	guest_ready "$name" vfnet
	ADDRESS[$name]=10.78.0.$n SERVER[$name]=10.78.0.1
	net_up "$name" || fail "$name: no network in the guest: $(tail -n 3 "$TESTBED_SCRATCH/$name.out")"
	n=$((n + 1))
done

for name in "${SUBJECTS[@]}"; do record command vfnet "$name" "$(eval "quoted ${COMMANDS[$name]}")"; done
declare -A TITLES=([udp-tx]="datagrams of 64 bytes sent" [udp-rx]="datagrams of 64 bytes received"
	[echo]="round trip of a 64-byte echo")
for kind in "${KINDS[@]}"; do
	TITLE=${TITLES[$kind]}
	case $kind in
	echo) describe echo us echo ratio ;;
	*) describe "$kind" packets/s packet ratio-reach ;;
	esac
done
for pair in $(seq "$BENCH_PAIRS"); do
	for kind in "${KINDS[@]}"; do
		for name in "${SUBJECTS[@]}"; do
			case $name in *emulated) [ "$pair" -le "$EMULATED_RUNS" ] || continue ;; esac
			net_on "$name" vfnet "$kind"
			sample_run "$name" "$kind" "$pair"
		done
	done
done
for ((round = 0; round < TCP_ROUNDS; round++)); do
	for kind in tcp-tx tcp-rx; do
		for name in "${SUBJECTS[@]}"; do
			net_on "$name" vfnet "$kind"
			net_points network-function "$name" "$kind"
		done
	done
done
for name in "${SUBJECTS[@]}"; do guest_stop "$name"; done

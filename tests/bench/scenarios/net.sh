# shellcheck shell=bash source-path=SCRIPTDIR disable=SC2034 # option sets name variables
# net - virtio-net on a tap in the testbed: TCP throughput and datagrams of 64 bytes both ways, and
# the round trip of a 64-byte ICMP echo; exits to user space and host CPU of each. Against QEMU's own
# device and against its kernel helper (vhost), with the same offloads. The host's CPU time includes
# vhost's threads. All guests are up at once, but only one works.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
# shellcheck disable=SC2119 # no options
enter_testbed
. "$BENCH_DIR/guests.sh"
. "$BENCH_DIR/traffic.sh"
MEM=128M
KERNEL=$TESTBED_KERNEL_CLOUD
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
KINDS=(tcp-tx tcp-rx udp-tx udp-rx echo)
OTHER_RUNS=2 # of the option set that is not the best, for the picture
[ -z "${BENCH_QUICK-}" ] || KINDS=(tcp-rx udp-tx echo)
NEXT=1

# new_tap NAME: TAP for a guest of that name, which will be 10.77.N.2.
new_tap() {
	TAP=tap$NEXT
	ip tuntap add dev "$TAP" mode tap
	ip addr add "10.77.$NEXT.1/24" dev "$TAP"
	ip link set "$TAP" up
	ADDRESS[$1]=10.77.$NEXT.2 SERVER[$1]=10.77.$NEXT.1
	NEXT=$((NEXT + 1))
}

# describe KIND VALUE-UNIT GOAL PER TITLE
describe() {
	local id=net-$1 figure
	record figure "$id" "$2" "$5"
	# shellcheck disable=SC2086
	record goal "$id" $3
	record figure "$id-exits" "exits/$4" "exits to user space, without the console's: $5"
	record goal "$id-exits" ratio 1
	record figure "$id-cpu" "us/$4" "host CPU, all threads and vhost's, without guest time: $5"
	record goal "$id-cpu" ratio 1
	for figure in "$id" "$id-exits" "$id-cpu"; do
		record command "$figure" unvmm "$(quoted "${UNVMM_ARGS[@]}") # $1"
		record command "$figure" peer "$(quoted "${PEER_ARGS[@]}") # $1"
	done
}

# subject NAME: as the picture names it.
subject() {
	case $1 in unvmm) echo emulated ;; *vhost*) echo qemu-vhost ;; *) echo qemu-emulated ;; esac
}

exits_enable || fail "this kernel does not count kvm_userspace_exit"
modprobe tun
modprobe vhost_net || record note net "no vhost in this host's kernel"
serve
record figure net "" "option sets of QEMU"

new_tap unvmm
UNVMM_ARGS=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -o on_reboot=exit -o "nets.0.tap=$TAP")
guest_start unvmm "${UNVMM_ARGS[@]}"
declare -A VALUES ARGS_OF
mapfile -t sets < <(peers_of net-)
[ -z "${BENCH_QUICK-}" ] || sets=("${sets[0]}")
for set in "${sets[@]}"; do
	new_tap "$set"
	peer_args common "$set"
	ARGS_OF[$set]=$(declare -p ARGS)
	guest_start "$set" "${ARGS[@]}"
done
guest_ready unvmm net
net_up unvmm || fail "unvmm: no network in the guest"
up=()
for set in "${sets[@]}"; do
	# net_up twice: the emulated host may lose a packet.
	if { guest_wait "$set" '/ #' 180 || guest_again "$set" net; } && { net_up "$set" || net_up "$set"; }; then
		up+=("$set")
	else
		record note net "screening: $set is left out, its guest gets no network"
		guest_stop "$set"
	fi
done
sets=("${up[@]}")
[ ${#sets[@]} -gt 0 ] || fail "no option set of QEMU gives its guest a network"
# The option set that sends the most datagrams is the peer; the others are for the picture.
BEST=
for set in "${sets[@]}"; do
	values=$(for _ in $(seq "$SCREENING"); do run_net "$set" udp-tx && echo "${VALUE%.*}"; done)
	VALUES[$set]=$(median <<<"$values")
	record note net "screening: $set ${VALUES[$set]} datagrams/s (of 64 bytes, sent), n=$SCREENING"
	if [ -z "$BEST" ] || [ "${VALUES[$set]}" -gt "${VALUES[$BEST]}" ]; then BEST=$set; fi
done
eval "${ARGS_OF[$BEST]}"
PEER_ARGS=("${ARGS[@]}")

for kind in "${KINDS[@]}"; do
	case $kind in
	tcp-tx) describe tcp-tx Mbit/s "ratio-min 1" MB "TCP, guest to host" ;;
	tcp-rx) describe tcp-rx Mbit/s "ratio-min 1" MB "TCP, host to guest" ;;
	udp-tx) describe udp-tx packets/s "ratio-min 1" packet "datagrams of 64 bytes, guest to host" ;;
	udp-rx) describe udp-rx packets/s "ratio-min 1" packet "datagrams of 64 bytes, host to guest" ;;
	echo) describe echo us "ratio 1" echo "round trip of a 64-byte echo" ;;
	esac
done
for pair in $(seq "$BENCH_PAIRS"); do
	for kind in "${KINDS[@]}"; do
		for guest in unvmm "${sets[@]}"; do
			[ "$guest" = unvmm ] || [ "$guest" = "$BEST" ] || [ "$pair" -le "$OTHER_RUNS" ] || continue
			net_on "$guest" net "$kind"
			net_points network-tap "$(subject "$guest")" "$kind"
			case $guest in unvmm) side=unvmm ;; "$BEST") side=peer ;; *) continue ;; esac
			record sample "net-$kind" "$side" "$pair" "$VALUE"
			record sample "net-$kind-exits" "$side" "$pair" "$(per "$UNITS" "$EXITS")"
			record sample "net-$kind-cpu" "$side" "$pair" "$(per "$UNITS" "$CPU_US")"
		done
	done
done
for guest in unvmm "${sets[@]}"; do guest_stop "$guest"; done

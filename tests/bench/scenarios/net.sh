# shellcheck shell=bash source-path=SCRIPTDIR
# net - virtio-net on a tap in the testbed: TCP throughput and datagrams of 64 bytes both ways, and
# the round trip of a 64-byte ICMP echo; exits to user space and host CPU of each. Against QEMU's own
# device and against its kernel helper (vhost), with the same offloads. The host's CPU time includes
# vhost's threads. All guests are up at once, but only one works.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

need_qemu
enter_testbed
. "$BENCH_DIR/guests.sh"
MEM=128M
SECONDS_EACH=2
ECHOES=1000
# shellcheck disable=SC2034 # the peers' option sets name them
KERNEL=$TESTBED_KERNEL_CLOUD
# shellcheck disable=SC2034
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
NEXT=1
declare -A NETS

# new_tap NAME: TAP for a guest of that name, which will be 10.77.N.2.
new_tap() {
	TAP=tap$NEXT
	ip tuntap add dev "$TAP" mode tap
	ip addr add "10.77.$NEXT.1/24" dev "$TAP"
	ip link set "$TAP" up
	NETS[$1]=$NEXT
	NEXT=$((NEXT + 1))
}

# set_up NAME: addresses inside the guest.
set_up() {
	guest_run "$1" 30 "ip link set eth0 up; ip addr add 10.77.${NETS[$1]}.2/24 dev eth0; ping -c 1 10.77.${NETS[$1]}.1"
}

# cpu_ms PID: of the process, and of vhost's threads that work for it.
cpu_ms() {
	local task stat ticks=0
	for task in $(pgrep -x "vhost-$1"); do
		stat=$(sed 's/.*) //' "/proc/$task/stat")
		# shellcheck disable=SC2086
		set -- "$1" $stat
		ticks=$((ticks + ${13} + ${14}))
	done
	awk -v ms="$(host_cpu_ms "$1")" -v t="$ticks" -v hz="$(getconf CLK_TCK)" 'BEGIN {print ms + t * 1000 / hz}'
}

# work NAME KIND: VALUE, UNITS (how many things EXITS and CPU_MS are for) of one run; or false.
work() {
	local name=$1 kind=$2 pid=${PIDS[$1]} exits cpu line
	exits=$(exits_of "$pid")
	cpu=$(cpu_ms "$pid")
	if [ "$kind" = echo ]; then
		line=$(ping -q -f -c "$ECHOES" -s 56 -w 20 "10.77.${NETS[$name]}.2") || true
		VALUE=$(sed -n 's|^rtt [^=]*= [0-9.]*/\([0-9.]*\)/.*|\1|p' <<<"$line")
		VALUE=$(awk -v ms="${VALUE:-0}" 'BEGIN {print ms * 1000}')
		grep -q " $ECHOES received" <<<"$line" || {
			say "$name: not all echoes came back: $line"
			return 1
		}
		UNITS=$ECHOES
	else
		guest_run "$name" 60 "sh /agents/bench-net 10.77.${NETS[$name]}.1 $kind $SECONDS_EACH" || return 1
		line=$(grep -a 'unvmm-guest: bench' "$TESTBED_SCRATCH/$name.out" || true)
		VALUE=$(sed -n 's/.*"value": \([0-9.]*\).*/\1/p' <<<"$line")
		case $kind in
		tcp-*) UNITS=$(awk -v v="${VALUE:-0}" -v s="$SECONDS_EACH" 'BEGIN {print v * s / 8}') ;; # MB
		udp-*) UNITS=$(awk -v v="${VALUE:-0}" -v s="$SECONDS_EACH" 'BEGIN {print v * s}') ;;
		esac
	fi
	awk -v v="${VALUE:-0}" 'BEGIN {exit !(v > 0)}' || {
		say "$name: no result of $kind: $(tail -n 3 "$TESTBED_SCRATCH/$name.out")"
		return 1
	}
	EXITS=$(($(exits_of "$pid") - exits))
	CPU_MS=$(awk -v a="$cpu" -v b="$(cpu_ms "$pid")" 'BEGIN {print b - a}')
}

# screen NAME: what its option set is chosen by. (best_of)
screen() {
	set_up "$1" && work "$1" udp-tx && echo "${VALUE%.*}"
}

# per_unit COUNT
per_unit() { awk -v c="$1" -v u="$UNITS" 'BEGIN {print c / u}'; }

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

exits_enable || fail "this kernel does not count kvm_userspace_exit"
modprobe tun
modprobe vhost_net || record note net-udp-tx "no vhost in this host's kernel"
iperf3 -s -D >/dev/null
record figure net "" "option sets of QEMU"

new_tap unvmm
UNVMM_ARGS=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM" -o on_reboot=exit -o "nets.0.tap=$TAP")
guest_start unvmm "${UNVMM_ARGS[@]}"
declare -A ARGS_OF
mapfile -t sets < <(peers_of net-)
for set in "${sets[@]}"; do
	new_tap "$set"
	peer_args common "$set"
	ARGS_OF[$set]=$(declare -p ARGS)
	guest_start "$set" "${ARGS[@]}"
done
guest_wait unvmm '/ #' 120 || fail "unvmm: $(cat "$TESTBED_SCRATCH/unvmm.err")"
screen unvmm >/dev/null || fail "unvmm: no network in the guest"
best_of net "datagrams of 64 bytes sent" "datagrams/s" "${sets[@]}"
eval "${ARGS_OF[$BEST]}"
PEER_ARGS=("${ARGS[@]}")

describe tcp-tx Mbit/s "ratio-min 1" MB "TCP, guest to host"
describe tcp-rx Mbit/s "ratio-min 1" MB "TCP, host to guest"
describe udp-tx packets/s "ratio-min 1" packet "datagrams of 64 bytes, guest to host"
describe udp-rx packets/s "ratio-min 1" packet "datagrams of 64 bytes, host to guest"
describe echo us "ratio 1" echo "round trip of a 64-byte echo"
for pair in $(seq "$BENCH_PAIRS"); do
	for kind in tcp-tx tcp-rx udp-tx udp-rx echo; do
		for guest in unvmm "$BEST"; do
			until work "$guest" "$kind"; do
				pkill -x iperf3 || true # it would wait for the dead guest
				iperf3 -s -D >/dev/null
				guest_again "$guest" net && set_up "$guest" || fail "$guest: its guests die"
			done
			side=peer
			[ "$guest" != unvmm ] || side=unvmm
			record sample "net-$kind" "$side" "$pair" "$VALUE"
			record sample "net-$kind-exits" "$side" "$pair" "$(per_unit "$EXITS")"
			record sample "net-$kind-cpu" "$side" "$pair" "$(per_unit "$(awk -v ms="$CPU_MS" 'BEGIN {print ms * 1000}')")"
		done
	done
done
guest_stop unvmm
guest_stop "$BEST"

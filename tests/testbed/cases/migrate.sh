# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# A stock Linux guest with disk and network card, moved again and again between two hosts of one LAN:
# over TCP, there and back, and through a file. The hosts are two network namespaces, miga and migb,
# or two hosts under test (run --hosts 2), 1 and 2, the latter in the cases hosts_*.
# shellcheck disable=SC2034,SC2178 # MACHINE_... are used by name

SLOW_CASES+=(migrate)

# lan_host NAME NUMBER: a host with a bridge for guests that hangs on the LAN, a tap, an address.
lan_host() {
	ip netns add "$1"
	ip -n "$1" link set lo up
	ip -n miglan link add "to$1" type veth peer name lan netns "$1"
	ip -n miglan link set "to$1" master br0 up
	ip -n "$1" link add br0 type bridge
	ip -n "$1" link set lan master br0 up
	ip -n "$1" tuntap add dev tap0 mode tap
	ip -n "$1" link set tap0 master br0 up
	ip -n "$1" addr add "10.78.0.$2/24" dev br0
	ip -n "$1" link set br0 up
	mkdir -m 700 "$1"
}

lan() {
	end_lan 2>/dev/null # of a case that failed
	modprobe bridge 2>/dev/null || true
	modprobe veth 2>/dev/null || true
	ip netns add miglan
	ip -n miglan link set lo up
	ip -n miglan link add br0 type bridge
	ip -n miglan addr add 10.78.0.1/24 dev br0
	ip -n miglan link set br0 up
	lan_host miga 11
	lan_host migb 12
}

end_lan() {
	for i in miga migb miglan; do ip netns del "$i" || true; done
}

# on HOST COMMAND...
on() {
	local host=$1
	shift
	case $host in
	1) "$@" ;;
	2) command on 2 "$@" ;;
	*) UNVMM_RUNTIME_DIR=$PWD/$host ip netns exec "$host" "$@" ;;
	esac
}

address_of() {
	case $1 in
	miga) echo 10.78.0.11 ;;
	migb) echo 10.78.0.12 ;;
	*) echo "10.99.0.$1" ;;
	esac
}

# depart HOST AGENTS: a guest begins there, with the machine that MACHINE_HOST describes. What it and
# unvmm print is in console.N.txt and messages.N.txt, N being the number of moves.
depart() {
	local -n machine=MACHINE_$1
	MOVES=0
	HOST=$1
	CONSOLE=console.0.txt
	MESSAGES=messages.0.txt
	: >"$CONSOLE"
	on "$1" "$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$(command_line "$2")" "${machine[@]}" \
		</dev/null >"$CONSOLE" 2>"$MESSAGES" &
	GUEST=$!
}

# receive HOST FROM...: in the background.
receive() {
	local -n machine=MACHINE_$1
	local host=$1
	shift
	CONSOLE=console.$((++MOVES)).txt
	MESSAGES=messages.$MOVES.txt
	: >"$CONSOLE"
	on "$host" "$UNVMM" receive "$@" "${machine[@]}" </dev/null >"$CONSOLE" 2>"$MESSAGES" &
	NEXT=$!
}

# runs_at HOST: it is listed there; in an emulated host its answer may come too late for a list.
runs_at() {
	local i
	for i in {1..10}; do
		! on "$1" "$UNVMM" list | grep -q '^web .* running' || return 0
	done
	return 1
}

# gone HOST: no guest is listed there any more; a name goes right after the process that had it.
gone() {
	local i
	for i in {1..300}; do
		[ "$(on "$1" "$UNVMM" list --json | tr -d "\n")" != "[]" ] || return 0
		sleep 0.1
	done
	return 1
}

# move TO: over TCP, from HOST; GUEST is the new process. What the move took is in moved.N.txt.
move() {
	local status=0
	receive "$1" --listen "$(address_of "$1"):4733" --insecure
	until grep -q "waiting for the guest" "$MESSAGES"; do
		kill -0 "$NEXT" 2>/dev/null || fail "receive ended"
		sleep 0.1
	done
	on "$HOST" "$UNVMM" migrate web --to "$(address_of "$1")" --insecure >"moved.$MOVES.txt" 2>&1 || status=$?
	tail -n 3 "moved.$MOVES.txt"
	[ "$status" = 0 ] || {
		tail -n 5 messages.*.txt
		fail "the move from $HOST to $1 ended with status $status"
	}
	finish
	wants_status 0
	GUEST=$NEXT
	gone "$HOST" || fail "the guest is still at $HOST: $(on "$HOST" "$UNVMM" list --json)"
	runs_at "$1" || fail "the guest does not run at $1: $(on "$1" "$UNVMM" list)"
	HOST=$1
}

# arrived HOST AGENT: the agent is told to end, and passes; it has been at all hosts.
arrived() {
	on "$1" timeout 60 socat -u TCP-LISTEN:5009,reuseaddr OPEN:/dev/null & # one connection ends it
	finish
	wait $! || true
	cat console.*.txt >all.txt
	CONSOLE=all.txt
	passes "$2"
	grep -h "unvmm-guest: travel:" all.txt
}

case_migrate() {
	local i
	lan
	truncate -s 64M disk.img
	MACHINE_miga=(--name web -m 256M -o vcpus=2 -o on_reboot=exit -o disks.0.path=disk.img -o disks.0.serial=one
		-o nets.0.tap=tap0 -o nets.0.mac=52:54:00:12:34:78)
	MACHINE_migb=("${MACHINE_miga[@]}")
	depart miga "travel:10.78.0.2:10.78.0.1:one:150"
	await "travel round 1"
	for i in 1 2; do
		move migb
		await "travel round"
		move miga
		await "travel round"
	done
	# Into a file, and out of it elsewhere.
	on miga "$UNVMM" migrate web --to file:snapshot || fail "snapshot: status $?"
	finish
	wants_status 0
	receive migb --from file:snapshot
	GUEST=$NEXT
	await "travel round"
	arrived miglan travel
	end_lan
}

# host_disk HOST ADDRESS: the disk by which that host itself uses that function.
host_disk() {
	on "$1" sh -c "modprobe virtio_blk; $UNVMM vf unbind $2 >&2; ls /sys/bus/pci/devices/$2/virtio*/block" | sed 's,^,/dev/,'
}

# The same between two hosts, with devices of unvmm's own: the disk is one that both hosts see.
case_hosts_migrate() {
	local host
	[ "${TESTBED_HOSTS:-1}" = 2 ] || skip "this takes two hosts (run --hosts 2)"
	for host in 1 2; do
		on $host sh -c "ip tuntap add dev tap0 mode tap && ip link set tap0 master br0 up"
		local -n machine=MACHINE_$host
		machine=(--name web -m 192M -o on_reboot=exit -o disks.0.path="$(host_disk $host "$TESTBED_VF1")"
			-o disks.0.serial=one -o nets.0.tap=tap0 -o nets.0.mac=52:54:00:12:34:78)
	done
	depart 1 "travel:10.99.0.3:10.99.0.1:one:100"
	await "travel round 1"
	move 2
	await "travel round"
	move 1
	await "travel round"
	arrived 1 travel
}

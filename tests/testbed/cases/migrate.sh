# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# A stock Linux guest with disk and network card, moved again and again between two hosts of one LAN,
# which are network namespaces here: over TCP, there and back, by ssh's way, and through a file.

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
}

lan() {
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

# on HOST COMMAND...
on() {
	local host=$1
	shift
	UNVMM_RUNTIME_DIR=$PWD/$host ip netns exec "$host" "$@"
}

# receive HOST FROM OPTION...: in the background; waits until it is ready.
receive() {
	local host=$1
	shift
	MESSAGES=messages.$host.$((++MOVES)).txt
	CONSOLE=console.$MOVES.txt
	: >"$CONSOLE"
	on "$host" "$UNVMM" receive "$@" "${MACHINE[@]}" --console "file:$CONSOLE" </dev/null 2>"$MESSAGES" &
	NEXT=$!
}

# gone HOST: no guest is listed there any more; a name goes right after the process that had it.
gone() {
	local i
	for i in {1..50}; do
		[ "$(on "$1" "$UNVMM" list --json | tr -d "\n")" != "[]" ] || return 0
		sleep 0.1
	done
	return 1
}

# move FROM TO ADDRESS: over TCP; GUEST is the new process.
move() {
	local before=$GUEST
	receive "$2" --listen "$3:4733" --insecure
	until grep -q "waiting for the guest" "$MESSAGES"; do
		kill -0 "$NEXT" 2>/dev/null || fail "receive ended"
		sleep 0.1
	done
	on "$1" "$UNVMM" migrate web --to "$3" --insecure || { status=$?; tail -n 5 messages*.txt; fail "migrate $1 to $2: status $status"; }
	GUEST=$before
	finish
	wants_status 0
	GUEST=$NEXT
	gone "$1" || fail "the guest is still at $1: $(on "$1" "$UNVMM" list --json)"
	on "$2" "$UNVMM" list | grep -q '^web .* running' || fail "the guest does not run at $2"
}

case_migrate() {
	local i line
	MOVES=0
	lan
	mkdir -m 700 miga migb
	truncate -s 64M disk.img
	MACHINE=(--name web -m 256M -o vcpus=2 -o on_reboot=exit -o disks.0.path=disk.img -o disks.0.serial=one
		-o nets.0.tap=tap0 -o nets.0.mac=52:54:00:12:34:78)
	line=$(command_line "travel:10.78.0.2:10.78.0.1:one:60")
	CONSOLE=console.0.txt
	: >"$CONSOLE"
	on miga "$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$line" "${MACHINE[@]}" --console "file:$CONSOLE" \
		</dev/null 2>"$MESSAGES" &
	GUEST=$!
	await "travel round 1"
	for i in 1 2; do
		move miga migb 10.78.0.12
		await "travel round"
		move migb miga 10.78.0.11
		await "travel round"
	done
	# Into a file, and out of it elsewhere.
	on miga "$UNVMM" migrate web --to file:snapshot || fail "snapshot: status $?"
	finish
	wants_status 0
	receive migb --from file:snapshot
	GUEST=$NEXT
	await "travel:"
	finish
	cat console.*.txt >all.txt
	CONSOLE=all.txt
	passes travel
	grep -h "stood still" ./*.txt || true
	for i in miga migb miglan; do ip netns del "$i"; done
}

# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Network cards: throughput both ways and a file that must survive the way there and back, over a tap
# and over passt; several queues; the link.

SLOW_CASES+=(net_passt net_tap)

# in_ns NAME: the guest's unvmm runs in this network namespace from now on.
in_ns() {
	printf '#!/bin/sh\nexec ip netns exec %q %q "$@"\n' "$1" "$UNVMM" >unvmm
	chmod +x unvmm
	UNVMM=$PWD/unvmm
}

# server NS: what the agent net talks to; the file that comes back is back.bin.
server() {
	head -c 6M /dev/urandom >file.bin
	ip netns exec "$1" iperf3 -s >iperf3-server.txt 2>&1 &
	ip netns exec "$1" socat -u FILE:file.bin TCP-LISTEN:5002,reuseaddr &
	ip netns exec "$1" socat -u TCP-LISTEN:5003,reuseaddr CREATE:back.bin &
	SERVERS=$(jobs -p)
}

# close_all NS...: ends the servers and the namespaces.
close_all() {
	local ns
	# shellcheck disable=SC2086
	kill $SERVERS 2>/dev/null || true
	for ns; do ip netns del "$ns"; done
}

file_survived() { cmp file.bin back.bin || fail "the file changed on its way"; }

# tap_ns NS [OPTION]...: a namespace with a tap.
tap_ns() {
	local ns=$1
	shift
	ip netns add "$ns"
	ip -n "$ns" link set lo up
	ip -n "$ns" tuntap add dev tap0 mode tap "$@"
	ip -n "$ns" addr add 10.77.0.1/24 dev tap0
	ip -n "$ns" link set tap0 up
	in_ns "$ns"
}

case_net_tap() {
	tap_ns nettap
	server nettap
	boot "net:static:10.77.0.2:10.77.0.1" -o nets.0.tap=tap0 -o nets.0.mac=52:54:00:12:34:56
	wants "net eth0 52:54:00:12:34:56 mtu 1500"
	passes net
	file_survived
	close_all nettap
}

case_net_tap_queues() {
	tap_ns nettapq multi_queue
	server nettapq
	boot "net:static:10.77.0.2:10.77.0.1:2" -o vcpus=2 -o nets.0.tap=tap0 -o nets.0.queues=2 \
		-o nets.0.mtu=1400 -o nets.0.offload=false
	wants "mtu 1400"
	passes net
	file_survived
	close_all nettapq
}

# The guest's packets leave from sockets in netpt, whose only way out is the cable to netptsrv. The
# server is not the gateway: passt gives that address to the host itself.
case_net_passt() {
	command -v passt >/dev/null || fail "there is no passt (Debian package passt)"
	ip netns add netpt
	ip netns add netptsrv
	ip link add ptcable netns netpt type veth peer name ptcable netns netptsrv
	ip -n netpt addr add 10.78.0.1/24 dev ptcable
	ip -n netptsrv addr add 10.78.0.2/24 dev ptcable
	ip -n netptsrv addr add 10.78.0.3/24 dev ptcable
	for ns in netpt netptsrv; do
		ip -n $ns link set lo up
		ip -n $ns link set ptcable up
	done
	ip -n netpt route add default via 10.78.0.2
	in_ns netpt
	server netptsrv
	boot "net:dhcp:10.78.0.3" -o nets.0.passt=true
	passes net
	file_survived
	for _ in {1..300}; do
		ip netns pids netpt | grep -q . || break
		sleep 0.1
	done
	[ -z "$(ip netns pids netpt)" ] || fail "passt lives on: $(ip netns pids netpt | xargs ps -o comm= -p)"
	close_all netpt netptsrv
}

case_net_link() {
	tap_ns netlink
	start "net:link" -o nets.0.tap=tap0
	await "link is up"
	ip -n netlink link set tap0 down
	await "link is down"
	ip -n netlink link set tap0 up
	finish
	passes net
	ip netns del netlink
}

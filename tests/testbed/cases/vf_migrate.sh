# shellcheck shell=bash source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# A stock Linux guest that drives assigned functions moves to other ones, to devices of unvmm's own in
# their place, and back, with verified I/O and pings all the time; then each queue becomes direct again.
# Two functions on one image stand for a
# disk that two hosts see. The frame is that of migrate.sh, vf.sh knows the functions.
# shellcheck disable=SC2034,SC2178 # MACHINE_... are used by name

SLOW_CASES+=(vf_migrate vf_migrate_software)

# travels HOST BLK NET: MACHINE_HOST has these functions, by their numbers.
travels() {
	local -n machine=MACHINE_$1
	machine=(--name web -m 192M -o on_reboot=exit -o "vfs.0.pci=$(vf_of blk "$2")" -o "vfs.1.pci=$(vf_of net "$3")")
}

# software HOST DISK TAP: MACHINE_HOST has these in place of functions.
software() {
	local -n machine=MACHINE_$1
	machine=(--name web -m 192M -o on_reboot=exit -o vfs.0.disk="$2" -o vfs.0.serial=lun -o vfs.1.tap="$3")
}

# paths DEVICE: of its queues, as in "relay relay control".
paths() {
	on "$HOST" "$UNVMM" info --json web | tr -d ' \n"' | sed 's/id:/\n/g' |
		sed -n "s/^$1,.*paths:\[\([^]]*\)\].*/\1/p" | tr , ' '
}

wants_paths() {
	local is
	is=$(paths "$1")
	[ "$is" = "$2" ] || fail "the queues of $1 at $HOST are $is, not $2"
}

# left DEVICE: completions until each queue is direct.
left() {
	on "$HOST" "$UNVMM" info --json web | tr -d ' \n"' | sed 's/id:/\n/g' |
		sed -n "s/^$1,.*completions-to-direct:\[\([^]]*\)\].*/\1/p"
}

# await_paths DEVICE PATHS SECONDS
await_paths() {
	local is end=$((SECONDS + $3))
	until is=$(paths "$1") && [ "$is" = "$2" ]; do
		[ "$SECONDS" -lt "$end" ] || {
			fail "after $3 s the queues of $1 at $HOST are $is, not $2"
		}
		sleep 1
		[ $(((end - SECONDS) % 10)) != 0 ] || echo "$(left "$1") completions are left"
	done
	echo "$1 at $HOST: $2 $(($3 + SECONDS - end)) s after it was asked for"
}

# vf_lan: the LAN of migrate.sh, with the functions on it.
vf_lan() {
	lan
	ip link set eth0 netns miglan
	ip -n miglan link set eth0 master br0 up
}

end_vf_lan() {
	ip -n miglan link set eth0 nomaster
	ip -n miglan link set eth0 netns 1
	end_lan
}

# A ring comes round after 65536 packets, which pings alone would take hours for.
card_direct() {
	local end=$((SECONDS + 300))
	while [ "$(paths vf1)" != "direct direct control" ] && [ "$SECONDS" -lt "$end" ]; do
		on miglan timeout 60 iperf3 -c 10.78.0.2 -t 20 >iperf.txt 2>&1 || true
		on miglan timeout 60 iperf3 -c 10.78.0.2 -t 10 -b 20M -R >>iperf.txt 2>&1 || true
		grep receiver iperf.txt || cat iperf.txt
		echo "$(left vf1) completions are left"
	done
	await_paths vf1 "direct direct control" 5
}

# TESTBED_MOVES: how often (2); with it the network card's queues have to become direct, too. The first
# disk can reset a queue for itself, the other one only the whole device; their doorbells lie at
# different places.
case_vf_migrate() {
	local i other
	alone
	vf_lan
	travels miga 3 0
	travels migb 4 1
	depart miga "travel:10.78.0.2:10.78.0.1:lun:$((500 + 30 * ${TESTBED_MOVES:-2}))"
	await "travel round 1"
	wants_paths vf0 direct
	wants_paths vf1 "direct direct control"
	for ((i = 0; i < ${TESTBED_MOVES:-2}; i++)); do
		other=$([ "$HOST" = miga ] && echo migb || echo miga)
		move "$other"
		wants_paths vf0 relay
		wants_paths vf1 "relay relay control"
		await "travel round"
	done
	await_paths vf0 direct 150
	[ -z "${TESTBED_MOVES-}" ] || card_direct
	await "travel round"
	arrived miglan travel
	end_vf_lan
}

# To a host that has no function, only the disk and a tap; and from there to another function.
case_vf_migrate_software() {
	local other
	alone
	vf_lan
	other=$(vf_of blk 0) # the host's own way to the same image
	travels miga 3 0
	software migb "$(host_disk 1 "$other")" tap0
	depart miga "travel:10.78.0.2:10.78.0.1:lun:120"
	await "travel round 1"
	move migb
	await "travel round"
	travels miga 4 1
	move miga
	wants_paths vf0 relay
	await "travel round"
	arrived miglan travel
	"$UNVMM" vf bind "$other"
	end_vf_lan
}

case_hosts_vf() {
	[ "${TESTBED_HOSTS:-1}" = 2 ] || skip "this takes two hosts (run --hosts 2)"
	travels 1 0 0
	travels 2 0 0
	depart 1 "travel:10.99.0.4:10.99.0.1:lun:100"
	await "travel round 1"
	move 2
	wants_paths vf0 relay
	await "travel round"
	move 1
	await "travel round"
	arrived 1 travel
}

# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Guests that get a new machine every so often (move-guest.c), with all of their state: they must not
# notice. A move takes some 0.3 s here, most of it for RAM.

SLOW_CASES+=(state_steady state_devices)

# moving MS: guests are run by move-guest.
moving() {
	UNVMM=$(dirname "$UNVMM")/move-guest
	export MOVE_MS=$1
}

# moved TIMES: so often at least.
moved() {
	local times
	times=$(sed -n 's/^moved \([0-9]*\) times$/\1/p' "$MESSAGES")
	[ "${times:-0}" -ge "$1" ] || fail "moved ${times:-0} times, not $1"
}

# Timers and clocks of two processors.
case_state_steady() {
	moving 1000
	boot "steady:8 cpus:2" -o vcpus=2 -o memory=160M
	passes steady cpus
	moved 6
}

# From the first instruction on, through the kernel's start.
case_state_boot() {
	moving 400
	boot "cpus:2" -o vcpus=2 -o memory=160M
	passes cpus
	moved 6
}

# Disk, network, input and a virtio console go on.
case_state_devices() {
	moving 1500
	image 64
	tap_ns statetap
	boot "netup:10.77.0.2:10.77.0.1 disk:one:2 rng netup:10.77.0.3:10.77.0.1 count:500" \
		-o vcpus=2 -o memory=200M -o rng=true \
		-o disks.0.path=disk.img -o disks.0.serial=one -o disks.0.queues=2 -o nets.0.tap=tap0 \
		-o consoles.+.chardev=none
	passes netup disk rng count
	moved 4
	wants "line 500"
	ip netns del statetap
}

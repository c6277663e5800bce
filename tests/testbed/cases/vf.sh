# shellcheck shell=bash source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# Assigned functions: the VFIO backend by itself, stock guests that drive a function without knowing,
# and the sentences of what cannot be assigned. check gives each host the functions that are needed.
# shellcheck disable=SC2034 # CONSOLE, MESSAGES and SERVERS are for the functions of lib.sh

SLOW_CASES+=(vf_property vf_net vf_rebind vf_net_guests)

# vf_of KIND N: the address of the N-th function of that kind, from 0.
vf_of() {
	local i n=$2 address kind
	for ((i = 0; i < TESTBED_VFS; i++)); do
		address=TESTBED_VF$i kind=TESTBED_VF${i}_KIND
		[ "${!kind}" = "$1" ] || continue
		[ "$((n--))" -gt 0 ] || {
			echo "${!address}"
			return
		}
	done
	fail "this host has no $1 function number $2 (run --vf $1)"
}

# alone: functions, the hub and eth0 are there once, for one case at a time.
alone() {
	exec {ALONE}>"$TESTBED_SCRATCH/vf.lock"
	flock "$ALONE"
}

vf_io() { timeout 60 "${UNVMM%/*}/vf-io" "$@"; }

# The functions without a guest: all of the backend that these functions have, one I/O by each kind of
# doorbell. A frame stays in the hub until someone could receive it.
case_vf_io() {
	local kind n
	alone
	ip link set eth0 up
	for kind in blk net; do
		for n in 0 1; do
			vf_io "$(vf_of $kind $n)" || fail "$kind $n"
		done
	done
}

# refuses REGEX ADDRESS [PREFIX]...: that it cannot be opened, and why.
refuses() {
	local said
	! said=$(timeout 60 "${@:3}" "${UNVMM%/*}/vf-io" "$2") || fail "$2 is not refused"
	echo "$said"
	[[ $said =~ $1 ]] || fail "$2: the sentence is '$said', not '$1'"
}

# One sentence for each thing that can be wrong with a function, before anything is opened or after.
case_vf_refused() {
	local blk group nic
	alone
	blk=$(vf_of blk 0)
	group=$(basename "$(readlink "/sys/bus/pci/devices/$blk/iommu_group")")
	nic=$(basename "$(realpath /sys/class/net/eth0/device/..)")
	refuses "is no PCI address" 3.0
	refuses "no such PCI function" 0000:1f:1f.7
	refuses "$nic is bound to virtio-pci; .unvmm vf bind $nic. gives it to vfio-pci" "$nic"
	echo "$blk" >/sys/bus/pci/drivers/vfio-pci/unbind
	refuses "is bound to no driver" "$blk"
	echo "$blk" >/sys/bus/pci/drivers_probe
	exec {held}<>"/dev/vfio/$group"
	refuses "in use by another process" "$blk"
	exec {held}>&-
	mv "/dev/vfio/$group" /dev/vfio/away
	refuses "there is no /dev/vfio/$group" "$blk"
	mv /dev/vfio/away "/dev/vfio/$group"
	# As a user who may open it, but lock less memory than it has to.
	chmod 666 /dev/kvm
	refuses "/dev/vfio/$group may not be opened" "$blk" setpriv --reuid 65534 --clear-groups
	chown 65534 "/dev/vfio/$group"
	refuses "must be locked .* may lock 0 MiB; raise the limit" "$blk" \
		prlimit --memlock=16384 setpriv --reuid 65534 --clear-groups
	chown 0 "/dev/vfio/$group"
	vf_io "$blk" || fail "the function is not as it was"
}

# --- disks --------------------------------------------------------------------------------------

case_vf_blk() {
	alone
	boot "disk" -o "vfs.0.pci=$(vf_of blk 0)"
	passes disk
}

case_vf_blk_pages() {
	alone
	boot "disk" -o "vfs.0.pci=$(vf_of blk 1)"
	passes disk
}

# The same with doorbells that no page is mapped for: VFIO rings them in the kernel.
case_vf_blk_portable() {
	alone
	boot "disk" -o "vfs.0.pci=$(vf_of blk 0)" -o vfs.0.doorbells=portable
	passes disk
}

# What the guest does to a device with its driver; nothing of it is known to the function.
case_vf_rebind() {
	alone
	boot "rebind:disk disk" -o "vfs.0.pci=$(vf_of blk 0)"
	passes rebind disk
}

case_vf_reboot() {
	alone
	boot "disk reboot" -o "vfs.0.pci=$(vf_of blk 1)" -o on_reboot=restart \
		--expect "PASS disk" --expect "unvmm-guest: rebooting" --expect "PASS disk" --timeout 150
	wants_status 0
}

# A kernel that is started by another one, which clears bus mastering and nothing else.
case_vf_kexec() {
	alone
	truncate -s 96M kexec.img
	stat -Lc %s "$TESTBED_KERNEL_CLOUD" "$TESTBED_INITRD_CLOUD" | xargs >sizes.txt
	dd if=sizes.txt of=kexec.img conv=notrunc status=none
	dd if="$TESTBED_KERNEL_CLOUD" of=kexec.img bs=1M seek=1 conv=notrunc status=none
	dd if="$TESTBED_INITRD_CLOUD" of=kexec.img bs=1M seek=64 conv=notrunc status=none
	boot "disk:vf0 kexec:kexec:disk:vf0" -o memory=512M -o disks.0.path=kexec.img -o disks.0.serial=kexec \
		-o "vfs.0.pci=$(vf_of blk 0)"
	passes disk
	[ "$(grep -c 'unvmm-guest: PASS disk' "$CONSOLE")" = 2 ] || fail "the second kernel did not pass"
}

# --- networks -----------------------------------------------------------------------------------

# hub_ns NS: a namespace with the host's own card, which is on the hub that the functions are on.
hub_ns() {
	ip netns add "$1"
	ip -n "$1" link set lo up
	ip link set eth0 netns "$1"
	ip -n "$1" addr add 10.77.0.1/24 dev eth0
	ip -n "$1" link set eth0 up
	SERVERS=
}

end_hub_ns() {
	ip -n "$1" link set eth0 down
	ip -n "$1" addr flush dev eth0
	ip -n "$1" link set eth0 netns 1
	close_all "$1"
}

case_vf_net() {
	alone
	hub_ns vfnet
	server vfnet
	boot "net:static:10.77.0.2:10.77.0.1" -o "vfs.0.pci=$(vf_of net 0)"
	end_hub_ns vfnet
	passes net
	file_survived
}

case_vf_net_pages() {
	alone
	hub_ns vfnetp
	server vfnetp
	boot "net:static:10.77.0.2:10.77.0.1 rebind:net:10.77.0.2:10.77.0.1" -o "vfs.0.pci=$(vf_of net 1)"
	end_hub_ns vfnetp
	passes net rebind
	file_survived
}

# Two guests with a function each.
case_vf_net_guests() {
	local peer
	alone
	ip link set eth0 up
	CONSOLE=peer.txt MESSAGES=peer-messages.txt
	start "netpeer:10.77.0.3" -o "vfs.0.pci=$(vf_of net 0)"
	await "peer is up"
	peer=$GUEST
	CONSOLE=console.txt MESSAGES=messages.txt
	boot "netup:10.77.0.2:10.77.0.3 bench-net:10.77.0.3:tcp-tx" -o "vfs.0.pci=$(vf_of net 1)"
	passes netup bench-net
	CONSOLE=peer.txt MESSAGES=peer-messages.txt GUEST=$peer
	finish
	passes netpeer
}

# --- several, and beside software devices -------------------------------------------------------

case_vf_several() {
	alone
	hub_ns vfmany
	truncate -s 64M soft.img
	boot "disk:soft disk:vf0 disk:vf1 netup:10.77.0.2:10.77.0.1 rng" -o vcpus=2 -o rng=true \
		-o disks.0.path=soft.img -o disks.0.serial=soft -o "vfs.0.pci=$(vf_of blk 0)" \
		-o "vfs.1.pci=$(vf_of net 0)" -o "vfs.2.pci=$(vf_of blk 1)"
	end_hub_ns vfmany
	passes disk netup rng
	[ "$(grep -c 'unvmm-guest: PASS disk' "$CONSOLE")" = 3 ] || fail "not all three disks passed"
}

# The host takes the function away (VFIO's request event): it gets it, and the guest lives.
case_vf_taken_back() {
	local blk
	alone
	blk=$(vf_of blk 0)
	start "disk:vf0 idle:5" -o "vfs.0.pci=$blk"
	await "agent idle"
	timeout 20 sh -c "echo $blk >/sys/bus/pci/drivers/vfio-pci/unbind" || fail "the host does not get it"
	finish
	echo "$blk" >/sys/bus/pci/drivers_probe
	passes disk idle
	wants_message "its host asks to have it back"
	vf_io "$blk" || fail "the function is not as it was"
}

# --- the point of it all ------------------------------------------------------------------------

# counted VMM-PID: kvm_userspace_exits but for the console's, and context switches of the other
# threads, as two lines.
counted() {
	exits_of "$1"
	switches_of "$1"
}

# property ADDRESS SERIAL: a guest does thousands of I/Os, and nobody in user space hears of one.
property() {
	local before after exits switches ios
	# shellcheck source=../../bench/counters.sh
	. "$TESTBED_CHECKOUT/tests/bench/counters.sh"
	exits_enable || fail "this kernel does not count exits"
	start "bench-disk:$2:randread:4k:16:8" -o "vfs.0.pci=$1"
	await "agent bench-disk"
	sleep 3 # fio is at work
	before=$(counted "$GUEST")
	sleep 3
	after=$(counted "$GUEST")
	finish
	passes bench-disk
	exits=$(($(head -n 1 <<<"$after") - $(head -n 1 <<<"$before")))
	switches=$(switches_added "$(tail -n +2 <<<"$before")" "$(tail -n +2 <<<"$after")")
	ios=$(sed -n 's/.*"read_iops": \([0-9]*\).*/\1/p' "$CONSOLE")
	echo "$1: about $((ios * 3)) I/Os in 3 s: $exits exits to user space, $switches context switches of other threads"
	[ $((ios * 3)) -ge 2000 ] || fail "only $((ios * 3)) I/Os were done"
	[ "$exits" = 0 ] || fail "$exits exits to user space"
	[ "$switches" = 0 ] || fail "$switches context switches of threads other than the vcpu"
}

case_vf_property() {
	alone
	property "$(vf_of blk 0)" vf0
	property "$(vf_of blk 1)" vf1
}

# --- refused ------------------------------------------------------------------------------------

# A function that takes physical addresses; only the operator can want that.
case_vf_unprotected() {
	alone
	boot "" -o "vfs.0.pci=$(vf_of blk 2)"
	wants_message "ACCESS_PLATFORM"
	wants_status 2
}

case_vf_bound_elsewhere() {
	local nic
	nic=$(basename "$(realpath /sys/class/net/eth0/device/..)")
	alone
	boot "" -o "vfs.0.pci=$nic"
	wants_message "$nic is bound to virtio-pci; .unvmm vf bind $nic. gives it to vfio-pci"
	wants_status 2
}

case_vf_twice() {
	alone
	boot "" -o "vfs.0.pci=$(vf_of blk 0)" -o "vfs.1.pci=$(vf_of blk 0)"
	wants_message "$(vf_of blk 0) is given to this guest twice"
	wants_status 2
}

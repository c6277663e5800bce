# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# What unvmm says of the host itself, and functions that go from vfio-pci to the host's own driver and
# back: here where KVM is hardware's, the IOMMU is on and functions are bound.

# doctor_says LEVEL NAME REGEX: such a line is in doctor.txt.
doctor_says() { grep -qE "^$1 +$2 +.*$3" doctor.txt || fail "doctor says of $2: $(grep -E "^[a-z]+ +$2 " doctor.txt)"; }

case_doctor() {
	"$UNVMM" doctor >doctor.txt || fail "doctor: status $?: $(cat doctor.txt)"
	cat doctor.txt
	doctor_says ok kvm "hardware KVM \(AMD-V\)"
	doctor_says ok kvm-api "all capabilities"
	doctor_says ok io_uring rings
	doctor_says ok seccomp filters
	doctor_says ok iommu "dmar[0-9]+, [0-9]+ groups"
	doctor_says ok irq-remapping remapped
	doctor_says ok vfio "vfio-pci, type 1"
	doctor_says ok no-iommu off
	doctor_says ok functions "bound to vfio-pci"
	doctor_says ok tap opens
	grep -q "stock Linux guests on /dev/kvm can run" doctor.txt || fail "no Linux guests?"
	grep -q "a guest can run" doctor.txt || fail "no guest?"
	[ "$("$UNVMM" doctor --json | python3 -c 'import json, sys; d = json.load(sys.stdin)
print(d["kvm"], d["can-run"], len(d["needs"]) > 15, [s["can-run"] for s in d["suites"]])')" = \
		"hardware True True [True, True, True]" ] || fail "doctor --json tells something else"
	# What is taken away is missed, and the line says how to mend it.
	rmmod vfio_iommu_type1
	"$UNVMM" doctor >doctor.txt || fail "VFIO is nothing that each guest needs"
	modprobe vfio_iommu_type1
	doctor_says warn vfio "no type 1 IOMMU support.*-> modprobe -a vfio-pci vfio_iommu_type1"
	mv /dev/kvm /dev/kvm.away
	! "$UNVMM" doctor >doctor.txt || { mv /dev/kvm.away /dev/kvm && fail "a guest can run without /dev/kvm?"; }
	mv /dev/kvm.away /dev/kvm
	doctor_says missing kvm "/dev/kvm is missing.*-> modprobe kvm_amd"
}

# command_refuses TEXT COMMAND...: status 1 and one sentence.
command_refuses() {
	local want=$1 status=0
	shift
	"$@" >out.txt 2>err.txt || status=$?
	[ $status = 1 ] && [ "$(wc -l <err.txt)" = 1 ] && grep -qF "$want" err.txt && [ ! -s out.txt ] ||
		fail "$*: status $status, not '$want': $(cat out.txt err.txt)"
}

# command_says TEXT COMMAND...: status 0 and that text.
command_says() {
	local want=$1 status=0
	shift
	"$@" >out.txt 2>&1 || status=$?
	[ $status = 0 ] && grep -qF "$want" out.txt || fail "$*: status $status, not '$want': $(cat out.txt)"
}

case_vf_list() {
	"$UNVMM" vf >list.txt
	cat list.txt
	VF=$(vf_of blk 0)
	grep -qE "^$VF +block +vfio-pci +[0-9]+ +1 +[0-9]+ +mapped +relay +relay +yes$" list.txt || fail "$VF in the list"
	VF=$(vf_of net 0)
	grep -qE "^$VF +net +vfio-pci +[0-9]+ +3 +[0-9]+ +mapped +relay +relay +yes$" list.txt || fail "$VF in the list"
	# All can be assigned but those that go around the IOMMU (iommu_platform=off).
	[ "$(grep -cE " yes$|not assigned: it does not offer ACCESS_PLATFORM" list.txt)" = "$TESTBED_VFS" ] ||
		fail "a function cannot be assigned"
	"$UNVMM" vf --json "$VF" >vf.json
	cat vf.json
	python3 - "$VF" <<-'PY' || fail "vf --json tells something else"
	import json, sys
	(f,) = json.load(open("vf.json"))["functions"]
	assert f["address"] == sys.argv[1] and f["assign"] == "yes" and f["access-platform"]
	assert f["doorbells"]["state"] == "mapped" and int(f["features"], 16) >> 32 & 1
	PY
	# While a process has the group the function is not asked, and that is said.
	exec 9<>"/dev/vfio/$(basename "$(readlink "/sys/bus/pci/devices/$VF/iommu_group")")"
	command_says "has its group open" "$UNVMM" vf "$VF"
	command_refuses "end the guest that uses it first" "$UNVMM" vf unbind "$VF"
	exec 9>&-
}

case_vf_bind_blk() {
	local disk
	VF=$(vf_of blk 0)
	modprobe -a virtio_pci virtio_blk
	command_says "given back to virtio-pci" "$UNVMM" vf unbind "$VF"
	command_says "not bound to vfio-pci" "$UNVMM" vf unbind "$VF"
	disk=/dev/$(ls "/sys/bus/pci/devices/$VF"/virtio*/block) || fail "no disk"
	command_says "after bind" "$UNVMM" vf "$VF"
	dd if=/dev/urandom of=data bs=64k count=4 status=none
	dd if=data of="$disk" oflag=direct bs=64k status=none
	dd if="$disk" iflag=direct bs=64k count=4 status=none | cmp - data || fail "the disk lost data"
	mkswap "$disk" >/dev/null
	swapon "$disk"
	command_refuses "swapoff $disk" "$UNVMM" vf bind "$VF"
	swapoff "$disk"
	sleep 100 <"$disk" &
	command_refuses "process $! (sleep) has its disk ${disk#/dev/} open" "$UNVMM" vf bind "$VF"
	command_says "bound to vfio-pci" "$UNVMM" vf bind --force "$VF"
	kill $!
	command_says "given back to virtio-pci" "$UNVMM" vf unbind "$VF"
	command_says "bound to vfio-pci (was: virtio-pci)" "$UNVMM" vf bind "$VF"
	command_says "bound to vfio-pci already" "$UNVMM" vf bind "$VF"
	[ ! -e "$disk" ] || fail "the disk is still there"
	command_says " yes" "$UNVMM" vf "$VF"
}

case_vf_bind_net() {
	local name
	VF=$(vf_of net 0)
	modprobe -a virtio_pci virtio_net
	command_says "given back to virtio-pci" "$UNVMM" vf unbind "$VF"
	name=$(ls "/sys/bus/pci/devices/$VF"/virtio*/net)
	ip link set "$name" up
	command_refuses "interface $name is on it and up; 'ip link set $name down'" "$UNVMM" vf bind "$VF"
	ip link set "$name" down
	command_says '"changed":true' "$UNVMM" vf bind --json "$VF"
}

# The card that the host's own root is on: of another type, and nobody must take it.
case_vf_bind_refused() {
	local own
	for own in /sys/bus/pci/devices/*; do
		[ "$(cat "$own/subsystem_device")" != 0x0009 ] || break
	done
	own=${own##*/}
	command_refuses "$own: it is a virtio 9p function" "$UNVMM" vf bind "$own"
	command_refuses "there is no such PCI function" "$UNVMM" vf bind 0000:17:00.0
	command_refuses "no virtio function" "$UNVMM" vf bind 0000:00:00.0
	VF=$(vf_of blk 0)
	command_says "given back" "$UNVMM" vf unbind "$VF"
	command_refuses "run this as root" setpriv --reuid 65534 --clear-groups "$UNVMM" vf bind "$VF"
	# Functions that are named together are all checked before the first is touched.
	command_refuses "$own: it is" "$UNVMM" vf bind "$VF" "$own"
	[ "$(basename "$(readlink "/sys/bus/pci/devices/$VF/driver")")" = virtio-pci ] || fail "$VF was touched"
	command_says "bound to vfio-pci" "$UNVMM" vf bind "$VF"
}

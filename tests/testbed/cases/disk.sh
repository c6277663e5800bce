# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Disks: data, queues, discard, read-only; and what the guest sees when the host's file fails.

SLOW_CASES+=(disk_yanked disk_2_queues)

# image MIB: disk.img, full of data that is not zero.
image() { { yes unvmm || true; } | head -c "$1M" >disk.img; }

blocks() { stat -c %b disk.img; }

case_disk() {
	local before
	image 64
	before=$(blocks)
	boot "disk:one:1" -o disks.0.path=disk.img -o disks.0.serial=one
	passes disk
	[ "$(blocks)" -le $((before - 8 * 2048)) ] || fail "discard freed nothing: $(blocks) of $before blocks"
	# shellcheck disable=SC2020 # a set of characters
	[ "$(tail -c 1M disk.img | tr -d 'unvm\n' | wc -c)" = 0 ] || fail "the end of the image changed"
}

case_disk_2_queues() {
	image 64
	boot "disk:two:2" -o vcpus=2 -o disks.0.path=disk.img -o disks.0.serial=two -o disks.0.queues=2
	passes disk
}

# The second disk is the one to leave alone.
case_disk_readonly() {
	local sum
	image 8
	sum=$(md5sum disk.img)
	truncate -s 8M other.img
	boot "diskro:keep" -o disks.0.path=other.img -o disks.1.path=disk.img -o disks.1.serial=keep \
		-o disks.1.readonly=true
	passes diskro
	[ "$sum" = "$(md5sum disk.img)" ] || fail "the image changed"
}

case_disk_truncated() {
	image 32
	start "diskerr:short" -o disks.0.path=disk.img -o disks.0.serial=short
	await "disk I/O begins"
	truncate -s 0 disk.img
	finish
	wants "disk error seen"
	passes diskerr
}

case_disk_full() {
	mkdir small
	mount -t tmpfs -o size=4M tmpfs small
	truncate -s 64M small/disk.img
	boot "diskerr:full:write" -o disks.0.path=small/disk.img -o disks.0.serial=full
	umount small
	wants "disk error seen"
	passes diskerr
}

# A whole block device, with O_DIRECT, first good and then pulled out under the guest.
case_disk_yanked() {
	local disk
	modprobe -a sd_mod || skip "the host has no sd_mod"
	modprobe scsi_debug dev_size_mb=64 delay=0 lbpu=1 lbpws=1 || skip "the host has no scsi_debug"
	for _ in {1..50}; do
		disk=$(grep -lx 'scsi_debug *' /sys/block/sd*/device/model 2>/dev/null) && break
		sleep 0.1
	done
	[ -n "$disk" ] || fail "no scsi_debug disk"
	disk=${disk#/sys/block/}
	disk=${disk%%/*}
	start "disk:pull diskerr:pull" -o disks.0.path="/dev/$disk" -o disks.0.serial=pull -o disks.0.direct=true
	await "disk I/O begins"
	echo 1 >"/sys/block/$disk/device/delete"
	finish
	rmmod scsi_debug || true
	wants "disk error seen"
	passes disk diskerr
}

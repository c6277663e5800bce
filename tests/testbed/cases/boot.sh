# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Guests of all sizes and kernels come up, and each of their ends gives its exit status.
# shellcheck disable=SC2034 # KERNEL and INITRD are for start

SLOW_CASES+=(boot_generic boot_5G)

# What the kernel's own header asks for at least; the initial RAM disk has to be small too.
case_boot_smallest() {
	INITRD=$TESTBED_SMALL_INITRD_CLOUD
	boot "cpus:1" -o memory=80M
	passes cpus
}

case_boot_2_cpus() {
	boot "cpus:2 mem:128" -o memory=128M -o vcpus=2
	passes cpus mem
}

case_boot_4_cpus() {
	boot "cpus:4 rng" -o memory=512M -o vcpus=4 -o rng=true
	passes cpus rng
}

# Memory on both sides of the hole below 4 GiB; Linux takes from the upper part first.
case_boot_5G() {
	boot "mem:5120:100" -o memory=5G
	passes mem
}

case_boot_generic() {
	KERNEL=$TESTBED_KERNEL_GENERIC INITRD=$TESTBED_INITRD_GENERIC
	boot "cpus:1" -o memory=256M
	passes cpus
}

case_boot_elf() {
	KERNEL=$TESTBED_VMLINUX_CLOUD
	boot "cpus:1" -o memory=128M
	passes cpus
}

case_boot_hugepages() {
	echo 128 >/proc/sys/vm/nr_hugepages
	[ "$(cat /proc/sys/vm/nr_hugepages)" -ge 128 ] || skip "the host has no 128 free huge pages"
	boot "mem" -o memory=256M -o hugepages=true
	echo 0 >/proc/sys/vm/nr_hugepages
	passes mem
}

case_reboot_exits() {
	boot "reboot"
	wants "unvmm-guest: rebooting"
	wants_status 1
}

case_reboot_restarts() {
	boot "reboot" -o on_reboot=restart --expect "unvmm-guest: userspace" --expect "unvmm-guest: rebooting" \
		--expect "unvmm-guest: userspace" --timeout 100
	wants_status 0
}

case_panic() {
	boot "panic"
	wants "Kernel panic"
	wants_message "panic"
	wants_status 1
}

case_exit_port() {
	boot "exit:42"
	wants_status 42
}

case_guest_too_small() {
	boot "" -o memory=48M
	wants_message "M"
	wants_status 2
}

# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# The CMOS clock's interrupts.

# with_program PROGRAM: an initial RAM disk in $INITRD that has it too, with its libraries.
with_program() {
	local file
	mkdir -p extra/usr/bin extra/lib/x86_64-linux-gnu extra/lib64
	cp "$(command -v "$1")" extra/usr/bin/
	ldd "extra/usr/bin/$1" | grep -o '/[^ ]*\.so[^ ]*' | while read -r file; do
		case $file in
		*/ld-linux*) cp -L "$file" extra/lib64/ ;;
		*) cp -L "$file" extra/lib/x86_64-linux-gnu/ ;;
		esac
	done
	# The kernel unpacks archives that stand one after the other.
	(cd extra && find . -mindepth 1 | cpio --quiet -o -H newc -R 0:0) | cat "$INITRD" - >initrd
	INITRD=initrd
}

case_rtc() {
	with_program hwclock
	boot "rtc"
	passes rtc
}

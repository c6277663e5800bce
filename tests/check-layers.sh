#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Proves the layering of README's reading order: a file includes only what stands above its folder
#   include/unvmm < vmm < devices < migrate
# and private headers only from its own folder. main.c, cmd_*.c and machine.c compose, so they may
# include anything; nothing includes their headers but they themselves. qmp_migrate.c knows the engine's
# types, and calls it by a table that they give it. devices/unvf/ and migrate/tls/ are programs of
# their own above all of them: public headers and their own, and nobody includes those.
set -uo pipefail
cd "$(dirname "$0")/.."
failed=0

complain() { echo "not ok layers $1"; failed=1; }

for f in include/unvmm/*.h vmm/*.[ch] devices/*.[ch] devices/unvf/*.[ch] migrate/*.[ch] migrate/tls/*.[ch]; do
	[[ -e $f ]] || continue
	dir=${f%/*} base=${f##*/} composes=
	case $f in vmm/main.c | vmm/cmd_*.[ch] | vmm/cmd.h | vmm/machine.[ch] | vmm/qmp_migrate.[ch]) composes=1 ;; esac
	while read -r inc; do
		case $inc in
		machine.h | cmd.h) [[ $composes ]] || complain "$f - includes $inc, which only compositions may" ;;
		*/*) complain "$f - includes \"$inc\": a private header of another folder" ;;
		registry.def) [[ $f == devices/registry.c ]] || complain "$f - only registry.c includes $inc" ;;
		*) [[ -e $dir/$inc ]] || complain "$f - includes \"$inc\", which is not in $dir/" ;;
		esac
	done < <(sed -n 's/^#include "\(.*\)"$/\1/p' "$f")
	# Devices never see the migration engine: they fill the tables of state.h.
	if [[ $dir == devices || $dir == vmm ]] && [[ ! $composes ]] &&
	   grep -qE '^#include <unvmm/(state_io|mig)' "$f"; then
		complain "$f - includes a header of the migration engine"
	fi
	if [[ $dir == vmm && ! $composes ]] &&
	   grep -qE '^#include <unvmm/(pci|msix|virtio|vq|softq)\.h>' "$f"; then
		complain "$f - vmm/ includes a header of the devices"
	fi
	if [[ $dir == include/unvmm ]] && grep -qE '^#include "' "$f"; then
		complain "$base - a public header includes a private one"
	fi
done

# KVM is asked by one file only.
if grep -lE '\bKVM_(GET|SET|CREATE|RUN|IRQ|CHECK)[A-Z_0-9]*\b.*\)' vmm/*.c devices/*.c migrate/*.c 2>/dev/null |
   xargs -r grep -lE 'ioctl\(' | grep -v '^vmm/kvm.c$' | xargs -r grep -lE 'ioctl\([^)]*KVM_'; then
	complain "the files above - only vmm/kvm.c calls KVM's ioctls"
fi

((failed)) || echo "ok layers"
exit $failed

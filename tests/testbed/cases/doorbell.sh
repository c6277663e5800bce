# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Mapped doorbells on a Linux KVM with nested paging: the unit test that `make unit` built, which
# elsewhere may run on another KVM.

case_doorbells() {
	local program=${UNVMM%/*}/tests/test_doorbells_kvm out
	[ -x "$program" ] || fail "no $program: make unit"
	out=$(timeout 90 "$program" 2>&1) || fail "status $?: $out"
	echo "$out"
	! grep -q SKIPPED <<<"$out" || fail "it was skipped"
}

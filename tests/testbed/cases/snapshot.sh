# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Guests that come out of a file. The cloud kernel has no driver for the VM generation id, the generic
# one has.

SLOW_CASES+=(snapshot_generation)

# generation: the VM generation id that the running guest has.
generation() {
	"$UNVMM" info web --json | sed -n 's/.*"generation": *"\([0-9a-f]*\)".*/\1/p'
}

# A copy that runs beside its original, and one of the same file: each has an id of its own, and the
# kernel hears of it. Most of the memory comes when it is touched.
case_snapshot_generation() {
	local i ids machine=(--name web -m 256M -o on_reboot=exit)
	export UNVMM_RUNTIME_DIR=$PWD/run
	mkdir -m 700 run
	KERNEL=$TESTBED_KERNEL_GENERIC INITRD=$TESTBED_SMALL_INITRD_GENERIC \
		start "forked" "${machine[@]}"
	await "forked: waiting"
	ids=$(generation)
	"$UNVMM" migrate web --to file:snapshot --keep-running || fail "snapshot: status $?"
	[ "$(generation)" = "$ids" ] || fail "the original has another id"
	"$UNVMM" stop --now web
	finish
	for i in 1 2; do
		CONSOLE=console.$i.txt MESSAGES=messages.$i.txt
		: >"$CONSOLE"
		"$UNVMM" receive -v --from file:snapshot "${machine[@]}" --console "file:$CONSOLE" \
			</dev/null 2>"$MESSAGES" &
		GUEST=$!
		until grep -q "runs here now" "$MESSAGES"; do
			kill -0 "$GUEST" 2>/dev/null || fail "receive ended"
			sleep 0.05
		done
		ids+=" $(generation)"
		finish
		passes forked
		wants_message "all of the guest's memory has been read"
	done
	[ "$(tr ' ' '\n' <<<"$ids" | grep -cE '^[0-9a-f]{32}$')" = 3 ] || fail "ids: $ids"
	[ "$(tr ' ' '\n' <<<"$ids" | sort -u | wc -l)" = 3 ] || fail "not each its own: $ids"
	rm snapshot
}

# shellcheck shell=bash source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# The part of scenario migrate in which the disk under fio is an assigned function, which no QEMU can
# move: from one function of the emulated host to another, and back. The client watched is on a software
# disk of the same guest: it stands still during the switch, as everything does, not while the function
# enters the relay. QEMU's figure beside the switch is that of its software disk, of the same pair and
# limit. Sourced by scenarios/migrate.sh, whose move() calls the vf_ functions; never run.

VF_DIRECT_S=40 # for a queue to get round its ring
VF_FUNCTIONS=("${TESTBED_VF0-}" "${TESTBED_VF1-}")

vf_at() { UNVMM_RUNTIME_DIR=$TESTBED_SCRATCH/${AT[vf]} "$UNVMM" "$@"; }

vf_start() {
	AT[vf]=a VF_NEXT=1
	VF_MACHINE=(--name function -m "$MEM" -o on_reboot=exit -d "$DISKS/vf-clock.img,serial=clock")
	VF_RUN=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" "${VF_MACHINE[@]}" -o "vfs.0.pci=${VF_FUNCTIONS[0]}")
	guest_start vf env "UNVMM_RUNTIME_DIR=$TESTBED_SCRATCH/a" "${VF_RUN[@]}"
}

vf_pause() { vf_at pause function; }
vf_resume() { vf_at resume function; }

vf_target() {
	local there=b
	[ "${AT[vf]}" = a ] || there=a
	VF_RECEIVE=("$UNVMM" receive --listen "127.0.0.1:$PORT" --insecure "${VF_MACHINE[@]}" -o "vfs.0.pci=${VF_FUNCTIONS[VF_NEXT]}")
	receive_at "$there" vf "${VF_RECEIVE[@]}"
	VF_NEXT=$((1 - VF_NEXT))
}

vf_move() {
	VF_MIGRATE=("$UNVMM" migrate function --to "127.0.0.1:$PORT" --insecure --downtime "$1" --json)
	RESULT=$(vf_at "${VF_MIGRATE[@]:1}" | tail -n 1) || fail "unvmm migrate: $(tail -qn 3 "$TESTBED_SCRATCH"/vf*.err)"
	AT[vf]=$NEXT
	[[ $RESULT == *'"completed"'* ]] || fail "unvmm migrate: $RESULT"
}

# vf_left: the completions until its queue is direct again; "-" when it is.
vf_left() { vf_at info --json function | tr -d ' \n"' | sed -n 's/.*completions-to-direct:\[\([^],]*\).*/\1/p'; }

# vf_wait_direct: at work until its queue is direct again, for that pause is measured on the next move.
vf_wait_direct() {
	local end=$((SECONDS + VF_DIRECT_S))
	until [ "$(vf_left)" = - ]; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.5
	done
}

vf_figure() {
	local id=migrate-vf-$1
	record figure "$id" "$2" "$3, limit of the downtime $VF_LIMIT ms"
	record command "$id" unvmm "$(quoted "${VF_RECEIVE[@]}") & $(quoted "${VF_MIGRATE[@]}") # of: $(quoted "${VF_RUN[@]}")"
}

# vf_figures: what is measured, after the first move.
vf_figures() {
	local part
	vf_figure switch-downtime ms "function: the switch, as reported; beside it QEMU's software disk"
	record goal migrate-vf-switch-downtime ratio 1
	vf_figure switch-client ms "function: the switch, as a client of the guest's software disk sees it; beside it QEMU's"
	record goal migrate-vf-switch-client ratio 1
	vf_figure switch-sum "" "function: difference of the two, by the client's"
	record goal migrate-vf-switch-sum value 0.05
	for part in downtime client; do
		record command "migrate-vf-switch-$part" peer "$(quoted "${ARGS[@]}" -incoming "tcp:127.0.0.1:$PORT") & # and QMP's migrate to it, as in migrate-$VF_LIMIT-$part"
	done
	while read -r part _; do
		vf_figure "switch-$part" ms "function: part of the switch: $part"
	done < <(pause_parts downtime)
	vf_figure entry-downtime ms "function: the pause when its queues enter the relay"
	while read -r part _; do
		vf_figure "entry-$part" ms "function: part of that pause: $part"
	done < <(pause_parts entry)
}

# vf_turn PAIR: PEER_DOWN and PEER_SEEN are QEMU's of this pair and VF_LIMIT.
vf_turn() {
	local pair=$1 part ms entered=
	vf_resume
	if vf_wait_direct; then
		entered=1
	else
		record note migrate-vf-entry-downtime "pair $pair: after $VF_DIRECT_S s its queue was not direct: no such pause"
	fi
	move vf "$VF_LIMIT"
	vf_pause
	[ "$pair" != 1 ] || vf_figures
	record sample migrate-vf-switch-downtime unvmm "$pair" "$DOWN"
	record sample migrate-vf-switch-downtime peer "$pair" "$PEER_DOWN"
	record sample migrate-vf-switch-client unvmm "$pair" "$SEEN"
	record sample migrate-vf-switch-client peer "$pair" "$PEER_SEEN"
	record sample migrate-vf-switch-sum unvmm "$pair" \
		"$(awk -v a="$SEEN" -v b="$DOWN" 'BEGIN {print (a > b ? a - b : b - a) / (a > 0 ? a : 1)}')"
	while read -r part ms; do
		record sample "migrate-vf-switch-$part" unvmm "$pair" "$ms"
	done < <(pause_parts downtime)
	[ -n "$entered" ] || return 0
	pause_parts entry | while read -r part ms; do
		record sample "migrate-vf-entry-$part" unvmm "$pair" "$ms"
	done
	record sample migrate-vf-entry-downtime unvmm "$pair" "$(pause_parts entry | awk '{sum += $2} END {print sum}')"
}

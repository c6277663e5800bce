# shellcheck shell=bash source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# migrate - a Linux guest of 512 MiB under fio, moved between two processes in one host of the
# testbed over TCP on the loopback: how long it stands still as its VMM says and as a client of its
# disk sees it by the host's clock, how long the move takes, how much goes over the wire. unvmm and
# QEMU in turn, the other one's guest paused meanwhile, for two limits of the downtime. Before that,
# on this machine's /dev/kvm, micro-guests with functions of unvf (migrate_unvf.sh); and in the same turns a
# third guest, whose disk is an assigned function (migrate_vf.sh).
. "$(dirname "$0")/../lib.sh"

# Six are the fewest whose interval is one of 95 %, and a move costs six seconds.
PAIRS=$((BENCH_PAIRS < 6 ? BENCH_PAIRS : 6))
now_us() { echo "${EPOCHREALTIME/[.,]/}"; }

# pause_parts downtime|entry: a line "PART MS" for each part of that pause in RESULT, which is an
# answer of unvmm's query-migrate.
pause_parts() {
	sed -n "s/.*\"x-unvmm-$1\": *{\([^}]*\)}.*/\1/p" <<<"$RESULT" | tr ',' '\n' |
		sed -n 's/.*"\([a-z-]*\)-ns": *\([0-9]*\).*/\1 \2/p' |
		awk '$1 !~ /^(target-.*|total)$/ {print $1, $2 / 1e6}'
}

if [ -z "${TESTBED_OUTPUT-}" ]; then
	. "$BENCH_DIR/migrate_unvf.sh"
	migrate_unvf
fi
need_qemu
[ -x build/bench/io_watch ] || fail "there is no build/bench/io_watch: make build/bench/io_watch"
enter_testbed --cpus 2 --mem 4G --vf blk,serial=load --vf blk,serial=load
. "$BENCH_DIR/guests.sh"
. "$BENCH_DIR/migrate_vf.sh"

MEM=512M
LIMITS=(20 300)
# The client's rate over time: this many ms per number, from so many before a move to so many after.
CURVE_STEP=20
CURVE_BEFORE=500
CURVE_AFTER=1000
PORT=4733
# shellcheck disable=SC2034 # peer_args uses them
{
	KERNEL=$TESTBED_KERNEL_CLOUD
	INITRD=$TESTBED_INITRD_CLOUD
}
APPEND='console=ttyS0 quiet panic=-1 agent=bench-move:load:clock'
DISKS=$TESTBED_SCRATCH
MOVES=0
SET=
declare -A AT QMP_IN QMP_OUT

# --- unvmm ----------------------------------------------------------------------------------------

unvmm_at() { UNVMM_RUNTIME_DIR=$TESTBED_SCRATCH/${AT[unvmm]} "$UNVMM" "$@"; }

# disks_of SIDE: images of its own.
disks_of() {
	truncate -s 64M "$DISKS/$1-load.img"
	truncate -s 1M "$DISKS/$1-clock.img"
	dd if=/dev/zero of="$DISKS/$1-load.img" bs=1M count=64 conv=notrunc status=none
}

unvmm_start() {
	mkdir -m 700 "$TESTBED_SCRATCH/a" "$TESTBED_SCRATCH/b"
	AT[unvmm]=a
	MACHINE=(--name web -m "$MEM" -o on_reboot=exit -d "$DISKS/unvmm-load.img,serial=load"
		-d "$DISKS/unvmm-clock.img,serial=clock")
	UNVMM_RUN=("$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" "${MACHINE[@]}")
	guest_start unvmm env "UNVMM_RUNTIME_DIR=$TESTBED_SCRATCH/a" "${UNVMM_RUN[@]}"
}

unvmm_pause() { unvmm_at pause web; }
unvmm_resume() { unvmm_at resume web; }

# unvmm_target: a process that waits for the guest, in TARGET.
unvmm_target() {
	local there=b
	[ "${AT[unvmm]}" = a ] || there=a
	UNVMM_RECEIVE=("$UNVMM" receive --listen "127.0.0.1:$PORT" --insecure "${MACHINE[@]}")
	receive_at "$there" unvmm "${UNVMM_RECEIVE[@]}"
}

# receive_at a|b SIDE COMMAND...: starts it, until it waits; TARGET is its process, NEXT where it is.
receive_at() {
	local there=$1 side=$2 said=$TESTBED_SCRATCH/$2-$1.err
	shift 2
	: >"$said" # not what the last one there said
	UNVMM_RUNTIME_DIR=$TESTBED_SCRATCH/$there "$@" <&"${FDS[$side]}" >>"$TESTBED_SCRATCH/$side.out" 2>>"$said" &
	TARGET=$!
	NEXT=$there
	for _ in {1..200}; do
		! grep -q "waiting for the guest" "$said" || return 0
		sleep 0.1
	done
	fail "unvmm receive: $(cat "$said")"
}

# unvmm_move LIMIT: RESULT is the last answer of query-migrate.
unvmm_move() {
	UNVMM_MIGRATE=("$UNVMM" migrate web --to "127.0.0.1:$PORT" --insecure --downtime "$1" --json)
	RESULT=$(unvmm_at "${UNVMM_MIGRATE[@]:1}" | tail -n 1) ||
		fail "unvmm migrate: $(tail -qn 3 "$TESTBED_SCRATCH"/unvmm*.err)"
	AT[unvmm]=$NEXT
	[[ $RESULT == *'"completed"'* ]] || fail "unvmm migrate: $RESULT"
}

# --- QEMU, by QMP through a pair of pipes: no process is needed to talk to it ---------------------

# qemu_pipes NAME: QMP is the option for it.
qemu_pipes() {
	local in out
	mkfifo "$TESTBED_SCRATCH/$1.qmp.in" "$TESTBED_SCRATCH/$1.qmp.out"
	exec {in}<>"$TESTBED_SCRATCH/$1.qmp.in" {out}<>"$TESTBED_SCRATCH/$1.qmp.out"
	QMP_IN[$1]=$in
	QMP_OUT[$1]=$out
	QMP=(-qmp "pipe:$TESTBED_SCRATCH/$1.qmp")
}

# qmp_wait NAME PATTERN: the first line that has it, in LINE.
qmp_wait() {
	while read -r -t 60 LINE <&"${QMP_OUT[$1]}"; do
		case $LINE in
		*$2*) return ;;
		*'"error"'*) fail "QEMU: $LINE" ;;
		esac
	done
	fail "QEMU does not say $2: $(tail -n 3 "$TESTBED_SCRATCH/peer"*.err)"
}

# qmp NAME COMMAND [ARGUMENTS]: its answer is in LINE.
qmp() {
	printf '{"execute":"%s"%s}\n' "$2" "${3:+,\"arguments\":{$3\}}" >&"${QMP_IN[$1]}"
	qmp_wait "$1" '"return"'
}

# qemu_greet NAME: events, no bandwidth limit. (Capability multifd made it slower: 659 ms seen by the
# client instead of 591.)
qemu_greet() {
	qmp "$1" qmp_capabilities
	qmp "$1" migrate-set-capabilities '"capabilities":[{"capability":"events","state":true}]'
	qmp "$1" migrate-set-parameters '"max-bandwidth":100000000000'
}

peer_start() {
	peer_args common "$SET"
	qemu_pipes peer0
	AT[peer]=peer0
	guest_start peer "${ARGS[@]}" "${QMP[@]}"
	qemu_greet peer0
}

peer_pause() { qmp "${AT[peer]}" stop; }
peer_resume() { qmp "${AT[peer]}" cont; }

peer_target() {
	NEXT=peer$((++MOVES))
	qemu_pipes "$NEXT"
	"${ARGS[@]}" "${QMP[@]}" -incoming "tcp:127.0.0.1:$PORT" <&"${FDS[peer]}" \
		>>"$TESTBED_SCRATCH/peer.out" 2>"$TESTBED_SCRATCH/peer-target.err" &
	TARGET=$!
	qemu_greet "$NEXT"
}

peer_move() {
	local here=${AT[peer]}
	qmp "$here" migrate-set-parameters "\"downtime-limit\":$1"
	qmp "$here" migrate "\"uri\":\"tcp:127.0.0.1:$PORT\""
	qmp_wait "$here" '"status": "completed"'
	# The event comes a little before the figures are complete.
	for _ in {1..100}; do
		qmp "$here" query-migrate
		RESULT=$LINE
		[ "$(number total-time)" -le 0 ] || break
		sleep 0.02
	done
	[ "$(number total-time)" -gt 0 ] || fail "QEMU does not say how long it took: $RESULT"
	AT[peer]=$NEXT
	qmp "$here" quit
	eval "exec ${QMP_IN[$here]}>&- ${QMP_OUT[$here]}>&-"
	rm "$TESTBED_SCRATCH/$here".qmp.*
}

# --- one move -------------------------------------------------------------------------------------

# number KEY: of RESULT.
number() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" <<<"$RESULT"; }

# seen FROM TO: the longest time between two writes of the client that ends in this time, in ms.
seen() {
	awk -v from="$1" -v to="$2" '
		last && $1 > from && $1 <= to && $1 - last > longest {longest = $1 - last}
		{last = $1}
		END {print longest / 1000}' "$TESTBED_SCRATCH/clock"
}

# curve FROM TO: the client's writes in each step of the time around a move.
curve() {
	awk -v from="$(($1 - CURVE_BEFORE * 1000))" -v to="$(($2 + CURVE_AFTER * 1000))" -v step=$((CURVE_STEP * 1000)) '
		last && $1 >= from && $1 < to {count[int(($1 - from) / step)] += $2 - last}
		{last = $2}
		END {for (i = 0; i < (to - from) / step; i++) printf "%s%d", i ? " " : "", count[i]}' "$TESTBED_SCRATCH/clock"
}

# move SIDE LIMIT: DOWN, SEEN, TOTAL in ms, MIB, ROUNDS, CURVE.
move() {
	local side=$1 limit=$2 before=${PIDS[$1]} from to watcher
	"${side}_target"
	build/bench/io_watch "$DISKS/$side-clock.img" >"$TESTBED_SCRATCH/clock" &
	watcher=$!
	sleep 1
	from=$(now_us)
	"${side}_move" "$limit"
	to=$(now_us)
	sleep 1.1
	kill "$watcher"
	wait "$watcher" || fail "io_watch"
	wait "$before" || fail "$side: the source ends with status $?"
	PIDS[$side]=$TARGET
	DOWN=$(number downtime)
	[ "$side" = peer ] || DOWN=$(awk -v ns="$(number total-ns)" 'BEGIN {print ns / 1e6}')
	SEEN=$(seen "$from" $((to + 500000)))
	TOTAL=$(number total-time)
	MIB=$(awk -v bytes="$(number transferred)" 'BEGIN {print bytes / 1048576}')
	ROUNDS=$(number dirty-sync-count)
	CURVE=$(curve "$from" "$to")
}

# --- all of them ----------------------------------------------------------------------------------

# figure LIMIT WHAT UNIT GOAL TITLE: goal "" for none.
figure() {
	local id=migrate-$1-$2
	record figure "$id" "$3" "$5, limit of the downtime $1 ms"
	[ -z "$4" ] || record goal "$id" ratio "$4"
	record command "$id" unvmm "$(quoted "${UNVMM_RECEIVE[@]}") & $(quoted "${UNVMM_MIGRATE[@]}") # of: $(quoted "${UNVMM_RUN[@]}")"
}

# figures LIMIT: what is measured with it, after unvmm's first move.
figures() {
	local quarter=1 part what
	[ "$1" != 20 ] || quarter=0.25
	figure "$1" downtime ms "$quarter" "how long the guest stands still, as reported"
	figure "$1" client ms "$quarter" "longest time between two writes of a client of the disk"
	figure "$1" total ms 1 "time from the start of the move to its end"
	figure "$1" bytes MiB 1 "sent"
	figure "$1" rounds "" "" "rounds of RAM"
	for what in downtime client total bytes rounds; do
		record command "migrate-$1-$what" peer "$(quoted "${ARGS[@]}" -incoming "tcp:127.0.0.1:$PORT") & # and QMP's migrate to it, max-bandwidth 100 GB/s"
	done
	while read -r part _; do
		figure "$1" "$part" ms "" "part of the downtime: $part"
	done < <(pause_parts downtime)
}

record_move() {
	local side=$1 limit=$2 pair=$3 part ms
	if [ "$side$pair" = unvmm1 ]; then figures "$limit"; fi
	record sample "migrate-$limit-client" "$side" "$pair" "$SEEN"
	record sample "migrate-$limit-downtime" "$side" "$pair" "$DOWN"
	record sample "migrate-$limit-total" "$side" "$pair" "$TOTAL"
	record sample "migrate-$limit-bytes" "$side" "$pair" "$MIB"
	record sample "migrate-$limit-rounds" "$side" "$pair" "$ROUNDS"
	record curve "migrate-$limit-client" "$side" "$pair" "$CURVE_STEP" "$CURVE_BEFORE" "$CURVE"
	[ "$side" = unvmm ] || return 0
	while read -r part ms; do
		record sample "migrate-$limit-$part" unvmm "$pair" "$ms"
	done < <(pause_parts downtime)
}

# start SIDE: until the guest's load runs; then it is paused.
start() {
	disks_of "$1"
	# shellcheck disable=SC2034 # peer_args uses them
	DISK=$DISKS/$1-load.img CLOCK=$DISKS/$1-clock.img
	"$1_start"
	guest_wait "$1" 'moves may begin' 120 || fail "$1: $(tail -n 3 "$TESTBED_SCRATCH/$1.err" "$TESTBED_SCRATCH/$1.out")"
	"$1_pause"
}

turn() {
	"$1_resume"
	move "$@"
	"$1_pause"
}

# choose: SET, of QEMU's option sets, is the one whose guest stands still for the shortest time.
choose() {
	local best='' best_seen=''
	for SET in $(peers_of migrate-); do
		if [ -n "${BENCH_QUICK-}" ]; then return; fi
		start peer
		turn peer "${LIMITS[0]}"
		say "$SET: $SEEN ms"
		record note migrate "screening: $SET stands still for $SEEN ms, reports $DOWN, takes $TOTAL ms, $MIB MiB"
		guest_stop peer
		if [ -z "$best" ] || awk -v a="$SEEN" -v b="$best_seen" 'BEGIN {exit !(a < b)}'; then
			best=$SET best_seen=$SEEN
		fi
	done
	SET=$best
}

[ -z "${BENCH_QUICK-}" ] || LIMITS=(20)
VF_LIMIT=${LIMITS[-1]}
record figure migrate "" "option sets of QEMU"
choose
start peer
start unvmm
start vf
for pair in $(seq "$PAIRS"); do
	for limit in "${LIMITS[@]}"; do
		for side in unvmm peer; do
			turn "$side" "$limit"
			record_move "$side" "$limit" "$pair"
		done
	done
	PEER_DOWN=$DOWN PEER_SEEN=$SEEN
	vf_turn "$pair"
done

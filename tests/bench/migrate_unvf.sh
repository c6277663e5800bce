# shellcheck shell=bash source-path=SCRIPTDIR
# SPDX-License-Identifier: Apache-2.0
# The part of scenario migrate that runs on this machine's /dev/kvm: guests/traffic.c, 256 MiB, with a
# function of unvf, moved under verified I/O; by the relay ("relay") and with a function that logs its
# own writes ("log"), a disk and a card. The guest polls, and so do function and relay: it wants two
# idle CPUs. Not at real-time priority: pollers would starve what they wait for. Sourced, never run.

UNVF=${BENCH_UNVF:-build/unvf}
UNVF_MIB=256
UNVF_WARM_S=0.6
# While the pages of a slow move go, this long, the rate is taken.
UNVF_SLOW=(--bandwidth 1M --downtime 1)
UNVF_SLOW_S=2
declare -A UNVF_DEVICE=([disk]="disks=1 cards=0 depth=32 max=2" [card]="disks=0 cards=1")
UNVF_PIDS=()

unvf_stop() {
	[ ${#UNVF_PIDS[@]} = 0 ] || kill -KILL "${UNVF_PIDS[@]}" 2>/dev/null || true
	[ ${#UNVF_PIDS[@]} = 0 ] || wait "${UNVF_PIDS[@]}" 2>/dev/null || true
	UNVF_PIDS=()
}

# wait_line FILE PATTERN PID: until a line has it.
wait_line() {
	local i
	for ((i = 0; i < 400; i++)); do
		! grep -q "$2" "$1" 2>/dev/null || return 0
		kill -0 "$3" 2>/dev/null || break
		sleep 0.05
	done
	fail "no \"$2\": $(tail -n 3 "$UNVF_DIR"/*.err)"
}

# unvf_host a|b KIND: a function of its own, in FUNCTION; UNVF_COMMAND is what started it.
unvf_host() {
	local socket=$UNVF_DIR/$1.vf
	local -a kind=(--type blk --image "$UNVF_DIR/image" --shared --serial disk)
	[ "$2" = disk ] || kind=(--type net --loopback --mac 52:54:00:00:07:01)
	rm -f "$socket"
	UNVF_COMMAND=("$UNVF" --socket "$socket" "${kind[@]}" "${UNVF_OPTIONS[@]}")
	: >"$UNVF_DIR/$1.out"
	"${UNVF_COMMAND[@]}" >"$UNVF_DIR/$1.out" 2>"$UNVF_DIR/$1.vf.err" &
	UNVF_PIDS+=($!)
	wait_line "$UNVF_DIR/$1.out" ready $!
	FUNCTION=(-o "vfs.0.socket=$socket")
}

# stamped: the lines of standard input, each behind the microseconds at which it came.
stamped() {
	local line
	while read -r line; do echo "${EPOCHREALTIME/[.,]/} $line"; done
}

# io_between FROM TO: completions per second, by the guest's lines that came in this time.
io_between() {
	awk -v from="$1" -v to="$2" '$2 == "io" && $1 >= from && $1 <= to {
			if (!n++) {t = $1; io = $3}
			last = $1; end = $3}
		END {if (n < 3) exit 1; print (end - io) / (last - t) * 1e6}' "$UNVF_DIR/lines"
}

# unvf_pair KIND: two hosts with a function each, a guest at work on a, b waits for it.
unvf_pair() {
	local machine=(-m "${UNVF_MIB}M" -o pit=false --name web)
	rm -rf "$UNVF_DIR/lines"
	mkfifo "$UNVF_DIR/console.$UNVF_N"
	stamped <"$UNVF_DIR/console.$UNVF_N" >"$UNVF_DIR/lines" &
	UNVF_PIDS+=($!)
	unvf_host a "$1"
	UNVF_RUN=("$UNVMM" run -k build/guests/traffic.elf -a "${UNVF_DEVICE[$1]}" "${machine[@]}" "${FUNCTION[@]}")
	UNVMM_RUNTIME_DIR=$UNVF_DIR/a "${UNVF_RUN[@]}" </dev/null >"$UNVF_DIR/console.$UNVF_N" 2>"$UNVF_DIR/a.err" &
	UNVF_PIDS+=($!)
	wait_line "$UNVF_DIR/lines" " io " $!
	unvf_host b "$1"
	rm -f "$UNVF_DIR/m"
	UNVF_RECEIVE=("$UNVMM" receive --listen "unix:$UNVF_DIR/m" "${machine[@]}" "${FUNCTION[@]}")
	UNVMM_RUNTIME_DIR=$UNVF_DIR/b "${UNVF_RECEIVE[@]}" </dev/null >"$UNVF_DIR/console.$UNVF_N" 2>"$UNVF_DIR/b.err" &
	UNVF_PIDS+=($!)
	wait_line "$UNVF_DIR/b.err" "waiting for the guest" $!
	UNVF_N=$((UNVF_N + 1))
	sleep "$UNVF_WARM_S"
}

# unvf_move OPTION...: RESULT is the last answer of query-migrate, for pause_parts.
# shellcheck disable=SC2034
unvf_move() {
	UNVF_MIGRATE=("$UNVMM" migrate web --to "unix:$UNVF_DIR/m" --json "$@")
	RESULT=$(UNVMM_RUNTIME_DIR=$UNVF_DIR/a timeout 60 "${UNVF_MIGRATE[@]}" 2>"$UNVF_DIR/move.err" | tail -n 1) ||
		fail "$(tail -n 2 "$UNVF_DIR"/{a,b,move}.err)"
}

# describe_pause ID TITLE [UNIT]
describe_pause() {
	record figure "$1" "${3-ms}" "$2"
	record command "$1" unvmm "$(quoted "${UNVF_COMMAND[@]}") & $(quoted "${UNVF_RECEIVE[@]}") & $(quoted "${UNVF_MIGRATE[@]}") # of: $(quoted "${UNVF_RUN[@]}")"
}

# record_pause WAY-KIND PAUSE PAIR: its parts, and the whole, which may be 10 ms.
record_pause() {
	local id=migrate-unvf-$1-$2 part ms key=downtime
	[ "$2" != entry ] || key=entry
	{
		pause_parts "$key"
		pause_parts "$key" | awk '{sum += $2} END {if (NR) print "downtime", sum}'
	} | while read -r part ms; do
		if [ "$3" = 1 ]; then
			describe_pause "$id-$part" "$1, pause \"$2\", ${part/#downtime/in all}"
			[ "$part" != downtime ] || record goal "$id-$part" value-all 10
		fi
		record sample "$id-$part" unvmm "$3" "$ms"
	done
}

# record_client WAY-KIND PAIR FROM TO: the longest time between two completions around a move, by the guest's
# clock, and by how much the parts of the longer pause miss it. It says both five times a second.
record_client() {
	local id=migrate-unvf-$1 seen pause
	sleep 0.5
	seen=$(awk -v from="$3" -v to=$(($4 + 400000)) '$2 == "io" && $1 > from && $1 <= to && $5 > most {most = $5}
		END {print most / 1000}' "$UNVF_DIR/lines")
	pause=$({ pause_parts entry | awk '{sum += $2} END {print sum + 0}' && pause_parts downtime |
		awk '{sum += $2} END {print sum + 0}'; } | sort -g | tail -n 1)
	if [ "$2" = 1 ]; then
		describe_pause "$id-client" "$1, longest time without a completion, by the guest's clock"
		describe_pause "$id-sum" "$1, difference of that and the sum of the parts of the longer pause, by the first" ""
		record goal "$id-sum" value 0.05
	fi
	record sample "$id-client" unvmm "$2" "$seen"
	record sample "$id-sum" unvmm "$2" "$(awk -v a="$seen" -v b="$pause" 'BEGIN {print (a > b ? a - b : b - a) / (a > 0 ? a : 1)}')"
}

# unvf_left: of each queue at b, the completions until it is direct, or "-".
unvf_left() {
	UNVMM_RUNTIME_DIR=$UNVF_DIR/b "$UNVMM" info --json web | tr -d ' \n"' |
		sed -n 's/.*completions-to-direct:\[\([^]]*\)\].*/\1/p' | tr , '\n'
}

# record_direct KIND PAIR: how many completions the queues were away from bare metal after a move, at the
# most; and they get there.
record_direct() {
	local id=migrate-unvf-$1-direct most end=$((SECONDS + 60))
	most=$(unvf_left | grep -v '^-' | sort -n | tail -n 1) || true
	while unvf_left | grep -qv '^-'; do
		[ $SECONDS -lt $end ] || fail "the queues of a $1 are not direct again after 60 s: $(unvf_left | tr '\n' ' ')"
		sleep 0.1
	done
	if [ "$2" = 1 ]; then
		describe_pause "$id" "completions until each queue of a busy $1 is direct again, at the most" ""
		record goal "$id" value-all 65536
	fi
	record sample "$id" unvmm "$2" "${most:-0}"
}

# unvf_rates: RATE is the completions per second while pages go, by those before. Whether the guest writes little
# enough does not matter: it is moved when the time is over.
unvf_rates() {
	local from to
	from=$(now_us)
	sleep "$UNVF_SLOW_S"
	to=$(now_us)
	unvf_move "${UNVF_SLOW[@]}" --timeout "$UNVF_SLOW_S" --on-timeout force
	RATE=$(awk -v a="$(io_between "$from" "$to")" -v b="$(io_between $((to + 200000)) $((to + UNVF_SLOW_S * 1000000)))" \
		'BEGIN {print b / a}') || fail "no rate: $(tail -n 3 "$UNVF_DIR/lines")"
}

migrate_unvf() {
	local way kind pair min id from to
	if [ ! -r /dev/kvm ] || [ ! -w /dev/kvm ]; then
		record note migrate "no usable /dev/kvm on this machine: functions of unvf are not moved"
		return 0
	fi
	UNVF_DIR=$(mktemp -d -p /dev/shm) # a disk would be in the pause, when it is synced
	UNVF_N=0
	trap 'unvf_stop; rm -rf "$UNVF_DIR"' EXIT
	mkdir -m 700 "$UNVF_DIR/a" "$UNVF_DIR/b"
	truncate -s 8M "$UNVF_DIR/image"
	for way in relay log; do
		UNVF_OPTIONS=(--ring-reset) min=0.8
		[ "$way" = relay ] || UNVF_OPTIONS=(--dirty-log --state) min=0.95
		for kind in disk card; do
			for pair in $(seq "$PAIRS"); do
				unvf_pair "$kind"
				from=$(now_us)
				unvf_move
				to=$(now_us)
				record_pause "$way-$kind" switch "$pair"
				record_pause "$way-$kind" entry "$pair"
				[ "$way" = log ] || [ "$pair" -gt 2 ] || record_direct "$kind" "$pair"
				record_client "$way-$kind" "$pair" "$from" "$to"
				unvf_stop
			done
			for pair in $(seq $((PAIRS / 2 + 1))); do
				unvf_pair "$kind"
				unvf_rates
				unvf_stop
				id=migrate-unvf-$way-$kind-rate
				if [ "$pair" = 1 ]; then
					describe_pause "$id" "$way, I/O of a $kind while pages go, by that before" ""
					record goal "$id" value-min "$min"
				fi
				record sample "$id" unvmm "$pair" "$RATE"
			done
		done
	done
	rm -rf "$UNVF_DIR"
	trap - EXIT
}

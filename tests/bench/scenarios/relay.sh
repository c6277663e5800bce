# shellcheck shell=bash source-path=SCRIPTDIR
# relay - what the ring relay costs per request (relay_cost.c): cycles, and instructions where
# valgrind is installed; requests one by one and in batches, without and with a log of what is
# written, as in a migration.
. "$(dirname "$0")/../lib.sh"

REQUESTS=4000000
COUNTED=64000
[ -z "${BENCH_QUICK-}" ] || REQUESTS=400000
PROGRAM=build/bench/relay_cost
[ -x "$PROGRAM" ] || fail "there is no $PROGRAM: make $PROGRAM"

# value KEY TEXT
value() { sed -n "s/.* $1=\([0-9.]*\).*/\1/p" <<<"$2"; }

for batch in 1 16; do
	for log in "" log; do
		id=relay-$batch${log:+-$log}
		title="the relay per request, $batch at a time${log:+, what is written is logged}"
		record figure "$id" cycles "$title"
		record command "$id" unvmm "$PROGRAM $batch $REQUESTS $log"
		record figure "$id-ns" ns "$title"
		record command "$id-ns" unvmm "$PROGRAM $batch $REQUESTS $log"
		for pair in $(seq "$BENCH_PAIRS"); do
			text=$("$PROGRAM" "$batch" "$REQUESTS" ${log:+log})
			record sample "$id" unvmm "$pair" "$(value cycles_per_request "$text")"
			record sample "$id-ns" unvmm "$pair" "$(value ns_per_request "$text")"
			record point cost unvmm "relay, per request, $batch at a time${log:+, logged}" cycles \
				"$(value cycles_per_request "$text")"
		done
		if ! command -v valgrind >/dev/null; then
			record note "$id" "instructions are not counted: valgrind is not installed"
			continue
		fi
		counter=(valgrind --tool=callgrind --callgrind-out-file=/dev/null --collect-atstart=no
			--toggle-collect=relay_turn "$PROGRAM" "$batch" "$COUNTED" ${log:+log})
		record figure "$id-instructions" instructions "$title"
		record command "$id-instructions" unvmm "$(quoted "${counter[@]}")"
		record sample "$id-instructions" unvmm 1 \
			"$("${counter[@]}" 2>&1 | awk -v n="$COUNTED" '/Collected/ {print $NF / n}')"
	done
done

# shellcheck shell=bash source-path=SCRIPTDIR
# start - exec to the first serial byte of guests/hello.S, on this machine's /dev/kvm.
. "$(dirname "$0")/../lib.sh"

need_kvm
KERNEL=build/guests/hello.elf
MEM=32M
SCREENING=3
[ -z "${BENCH_QUICK-}" ] || SCREENING=1
# Real-time priority for both sides where it may be had: else a busy machine measures its other
# processes, and these are a few milliseconds.
timer=(build/bench/time_to)
if chrt -f 10 true 2>/dev/null; then timer=(chrt -f 10 "${timer[@]}"); fi
unvmm=("$UNVMM" run -k "$KERNEL" -m "$MEM" -o pit=false)

# measure COMMAND...: microseconds.
measure() {
	local errors=$BENCH_OUT/$SCENARIO.out/stderr
	"${timer[@]}" "$@" 2>"$errors" || fail "$(cat "$errors")"
}
ms() { awk -v us="$1" 'BEGIN {print us / 1000}'; }

# best_peer: the option set with the lowest median of 3 (after one that warms the caches), in BEST.
best_peer() {
	local set value values best_value=""
	BEST=
	for set in $(peers_of start-); do
		peer_args common "$set"
		values=$(for _ in $(seq $((SCREENING + 1))); do measure "${ARGS[@]}"; done | tail -n "$SCREENING")
		if [ -z "$values" ]; then
			record note start "screening: $set says nothing"
			continue
		fi
		value=$(median <<<"$values")
		record note start "screening: $set $(ms "$value") ms"
		if [ -z "$best_value" ] || [ "$value" -lt "$best_value" ]; then
			BEST=$set best_value=$value
		fi
	done
}

record figure start ms "exec to first serial byte, hello.elf, 1 vCPU, $MEM"
record goal start value 5
record command start unvmm "$(quoted "${timer[@]}" "${unvmm[@]}")"
measure "${unvmm[@]}" >/dev/null
if command -v qemu-system-x86_64 >/dev/null; then
	best_peer
	[ -n "$BEST" ] || fail "no option set of QEMU starts"
	peer_args common "$BEST"
	record goal start ratio 0.125
	record command start peer "$(quoted "${timer[@]}" "${ARGS[@]}")"
fi
for pair in $(seq "$BENCH_PAIRS"); do
	value=$(measure "${unvmm[@]}") || exit 1
	value=$(ms "$value")
	record sample start unvmm "$pair" "$value"
	record point start unvmm hello value "$value"
	[ -n "${BEST-}" ] || continue
	value=$(measure "${ARGS[@]}") || exit 1
	value=$(ms "$value")
	record sample start peer "$pair" "$value"
	record point start microvm hello value "$value"
done

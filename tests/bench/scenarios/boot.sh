# shellcheck shell=bash source-path=SCRIPTDIR
# boot - in the testbed: exec to the first line of user space, the same Debian cloud kernel,
# initial RAM disk and command line on both sides; once with the bzImage, once with its vmlinux.
. "$(dirname "$0")/../lib.sh"

need_qemu
enter_testbed
MEM=128M
MARKER='unvmm-guest: userspace'
LIMIT=60
KERNEL=$TESTBED_KERNEL_CLOUD
VMLINUX=$TESTBED_VMLINUX_CLOUD
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
SCREENING=3
[ -z "${BENCH_QUICK-}" ] || SCREENING=1

measure() { "$BUILD/bench/time_to" -s "$LIMIT" -t "$MARKER" "$@" 2>"$TESTBED_SCRATCH/stderr"; }
seconds() { awk -v us="$1" 'BEGIN {print us / 1e6}'; }

# screen ID PREFIX: the option set whose median is the lowest, in BEST.
screen() {
	local set value values best_value=
	BEST=
	for set in $(peers_of "$2"); do
		peer_args common "$set"
		values=
		for _ in $(seq "$SCREENING"); do
			value=$(measure "${ARGS[@]}") || break
			values+=$value$'\n'
		done
		if [ -z "$value" ]; then
			record note "$1" "screening: $set does not get to user space within $LIMIT s"
			continue
		fi
		value=$(printf '%s' "$values" | median)
		say "$set $(seconds "$value") s"
		record note "$1" "screening: $set $(seconds "$value") s, n=$SCREENING"
		if [ -z "$best_value" ] || [ "$value" -lt "$best_value" ]; then
			BEST=$set best_value=$value
		fi
	done
	[ -n "$BEST" ] || fail "no option set of QEMU boots this kernel"
}

# compare ID PREFIX TITLE UNVMM...: pairs of UNVMM and the best option set.
compare() {
	local id=$1 prefix=$2 title=$3 pair value
	shift 3
	record figure "$id" s "exec to user space in the testbed, $title, 1 vCPU, $MEM"
	record goal "$id" ratio 0.8
	record command "$id" unvmm "$(quoted build/bench/time_to -t "$MARKER" "$@")"
	measure "$@" >/dev/null || fail "unvmm: $(cat "$TESTBED_SCRATCH/stderr")" # warms the caches
	screen "$id" "$prefix"
	peer_args common "$BEST"
	record command "$id" peer "$(quoted build/bench/time_to -t "$MARKER" "${ARGS[@]}")"
	for pair in $(seq "$BENCH_PAIRS"); do
		value=$(measure "$@") || fail "unvmm: $(cat "$TESTBED_SCRATCH/stderr")"
		record sample "$id" unvmm "$pair" "$(seconds "$value")"
		value=$(measure "${ARGS[@]}") || fail "$BEST: $(cat "$TESTBED_SCRATCH/stderr")"
		record sample "$id" peer "$pair" "$(seconds "$value")"
	done
}

compare boot boot- "Debian cloud bzImage" \
	"$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM"
compare boot-vmlinux vmlinux- "its vmlinux" \
	"$UNVMM" run -k "$VMLINUX" -i "$INITRD" -a "$APPEND" -m "$MEM"

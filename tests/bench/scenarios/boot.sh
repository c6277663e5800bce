# shellcheck shell=bash source-path=SCRIPTDIR
# boot - in the testbed: exec to the first line of user space, the same Debian cloud kernel,
# initial RAM disk and command line on both sides; once with the bzImage, once with its vmlinux. One
# CPU: it is all that a booting guest of one needs, and an emulated host of one is steadier.
. "$(dirname "$0")/../lib.sh"

need_qemu
enter_testbed --cpus 1
MEM=128M
MARKER='unvmm-guest: userspace'
LIMIT=60
KERNEL=$TESTBED_KERNEL_CLOUD
VMLINUX=$TESTBED_VMLINUX_CLOUD
INITRD=$TESTBED_INITRD_CLOUD
APPEND='console=ttyS0 quiet panic=-1'
VMLINUX_PAIRS=3 # for the picture
RETRIES=3       # of runs that the emulated host spoils now and then (tests/testbed/README.md)
SETS=20
[ -z "${BENCH_QUICK-}" ] || { VMLINUX_PAIRS=0 SETS=2; }
declare -A VALUES # of each option set, microseconds

# measure COMMAND...: US until the marker, or false.
measure() { US=$("$BUILD/bench/time_to" -s "$LIMIT" -t "$MARKER" "$@" 2>"$TESTBED_SCRATCH/stderr"); }

# measured ID COMMAND...: the same; a run without end is tried again, and that is told.
measured() {
	until measure "${@:2}"; do
		[ "$RETRIES" -gt 0 ] || fail "$2: $(cat "$TESTBED_SCRATCH/stderr")"
		RETRIES=$((RETRIES - 1))
		record note "$1" "$2 did not get to user space within $LIMIT s and was started again"
	done
}

seconds() { awk -v us="$1" 'BEGIN {print us / 1e6}'; }
machine_of() { case $1 in *q35*) echo q35 ;; *) echo microvm ;; esac; }

# screen_run SET: one more value of it.
screen_run() {
	peer_args common "$1"
	measure "${ARGS[@]}" && VALUES[$1]+=$US$'\n'
}

# ranked SET...: those that got to user space, "MEDIAN SET" each, the fastest first.
ranked() {
	local set
	for set; do
		[ -z "${VALUES[$set]-}" ] || echo "$(printf '%s' "${VALUES[$set]}" | median) $set"
	done | sort -n
}

# screen ID PREFIX GROUP: BEST for the bzImage; a vmlinux is for the picture: the option set that is
# the same but for the kernel.
choose() {
	if [ "$1" = boot ]; then
		screen "$@"
	else
		BEST=$2${BEST#boot-}
	fi
}

# screen ID PREFIX GROUP: the option set whose median is the lowest, in BEST: all run once, the best
# two twice more. Of the machine that is not BEST's the picture shows what was seen here.
screen() {
	local set value sets two
	mapfile -t sets < <(peers_of "$2" | tail -n "$SETS")
	for set in "${sets[@]}"; do screen_run "$set" || true; done
	mapfile -t two < <(ranked "${sets[@]}" | head -n 2 | cut -d ' ' -f 2)
	[ ${#two[@]} -gt 0 ] || fail "no option set of QEMU boots this kernel"
	for set in "${two[@]}" "${two[@]}"; do
		[ -n "${BENCH_QUICK-}" ] || screen_run "$set" || true
	done
	read -r _ BEST < <(ranked "${two[@]}")
	for set in "${sets[@]}"; do
		value=${VALUES[$set]-}
		if [ -z "$value" ]; then
			record note "$1" "screening: $set does not get to user space within $LIMIT s"
		else
			record note "$1" "screening: $set $(seconds "$(printf '%s' "$value" | median)") s, n=$(printf '%s' "$value" | wc -l)"
		fi
	done
	while read -r _ set; do
		[ "$(machine_of "$set")" != "$(machine_of "$BEST")" ] || continue
		while read -r value; do
			record point boot "$(machine_of "$set")" "$3" value "$(seconds "$value")"
		done < <(printf '%s' "${VALUES[$set]}")
		break
	done < <(ranked "${sets[@]}")
}

# compare ID PREFIX GROUP PAIRS UNVMM...: pairs of UNVMM and the best option set.
compare() {
	local id=$1 group=$3 pairs=$4 pair
	record figure "$id" s "exec to user space in the testbed, Debian cloud $group, 1 vCPU, $MEM"
	[ "$id" != boot ] || record goal "$id" ratio 0.8
	choose "$id" "$2" "$group"
	shift 4
	record command "$id" unvmm "$(quoted build/bench/time_to -t "$MARKER" "$@")"
	measured "$id" "$@" # warms the caches
	peer_args common "$BEST"
	record command "$id" peer "$(quoted build/bench/time_to -t "$MARKER" "${ARGS[@]}")"
	for pair in $(seq "$pairs"); do
		measured "$id" "$@"
		record sample "$id" unvmm "$pair" "$(seconds "$US")"
		record point boot unvmm "$group" value "$(seconds "$US")"
		measured "$id" "${ARGS[@]}"
		record sample "$id" peer "$pair" "$(seconds "$US")"
		record point boot "$(machine_of "$BEST")" "$group" value "$(seconds "$US")"
	done
}

compare boot boot- bzImage "$BENCH_PAIRS" \
	"$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$APPEND" -m "$MEM"
[ "$VMLINUX_PAIRS" = 0 ] || compare boot-vmlinux vmlinux- vmlinux "$VMLINUX_PAIRS" \
	"$UNVMM" run -k "$VMLINUX" -i "$INITRD" -a "$APPEND" -m "$MEM"

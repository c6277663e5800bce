# shellcheck shell=bash source-path=SCRIPTDIR
# scale - 1, 8, 32 and 128 idle guests of 32 MiB with a disk at once on this machine's /dev/kvm: what
# each costs. It is flat if a guest among 128 costs no more than one alone.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

MIB=32
SECONDS_EACH=10
COUNTS=(1 8 32 128)
OUT=$BENCH_OUT/$SCENARIO.out
PIDS=()

need_kvm
stop_all() {
	[ ${#PIDS[@]} = 0 ] || kill -KILL "${PIDS[@]}" 2>/dev/null || true
	[ ${#PIDS[@]} = 0 ] || wait "${PIDS[@]}" 2>/dev/null || true
	PIDS=()
}
trap stop_all EXIT
mkfifo "$OUT/silence"
exec {SILENCE}<>"$OUT/silence"
truncate -s 16M "$OUT/disk.img"
ARGS=("$UNVMM" run -k build/bench/idle.elf -m ${MIB}M -o pit=false -d "$OUT/disk.img,readonly=true")

# start_all N: PIDS are N guests that have said their byte.
start_all() {
	local i
	for ((i = 0; i < $1; i++)); do
		"${ARGS[@]}" <&"$SILENCE" >"$OUT/console.$i" 2>"$OUT/stderr.$i" &
		PIDS+=($!)
	done
	for ((i = 0; i < $1; i++)); do
		for _ in {1..1200}; do
			[ ! -s "$OUT/console.$i" ] || continue 2
			kill -0 "${PIDS[i]}" 2>/dev/null || fail "guest $i of $1 ended: $(cat "$OUT/stderr.$i")"
			sleep 0.05
		done
		fail "guest $i of $1 says nothing within 60 s"
	done
}

available_kib() { awk '/^MemAvailable:/ {print $2}' /proc/meminfo; }

# ticks_of PID...: CPU time so far, guest's included, of all together.
ticks_of() {
	local pid
	for pid; do sed 's/.*) //' "/proc/$pid/stat"; done | awk '{n += $12 + $13} END {print n + 0}'
}

for n in "${COUNTS[@]}"; do
	record figure "scale-memory-$n" KiB "private memory of each guest's process without its RAM, $n guests"
	record goal "scale-memory-$n" value 1536
	record figure "scale-host-$n" KiB "what the host's MemAvailable fell by, per guest, $n guests"
	record figure "scale-cpu-$n" ms "CPU time of each guest in $SECONDS_EACH s, $n guests"
	record goal "scale-cpu-$n" value 0
	record figure "scale-switches-$n" switches "of each guest's threads but vcpus in $SECONDS_EACH s, $n guests"
	record goal "scale-switches-$n" value 0
	for figure in memory host cpu switches; do
		record command "scale-$figure-$n" unvmm "for i in {1..$n}; do $(quoted "${ARGS[@]}") & done"
	done
	before=$(available_kib)
	start_all "$n"
	sleep 6 # the kernel's io_uring workers end when they had nothing to do for 5
	record sample "scale-host-$n" unvmm 1 $(((before - $(available_kib)) / n))
	for pid in "${PIDS[@]}"; do
		private_kib "$pid" "$MIB" || fail "the memory of guest $pid cannot be counted"
	done >"$OUT/private"
	record sample "scale-memory-$n" unvmm 1 "$(median <"$OUT/private")"
	record note "scale-memory-$n" "from $(sort -n "$OUT/private" | head -n 1) to $(sort -n "$OUT/private" | tail -n 1) KiB"
	switches=$(for pid in "${PIDS[@]}"; do switches_of "$pid"; done)
	ticks=$(ticks_of "${PIDS[@]}")
	sleep "$SECONDS_EACH"
	record sample "scale-cpu-$n" unvmm 1 "$(awk -v a="$ticks" -v b="$(ticks_of "${PIDS[@]}")" -v n="$n" \
		-v hz="$(getconf CLK_TCK)" 'BEGIN {print (b - a) * 1000 / hz / n}')"
	record sample "scale-switches-$n" unvmm 1 "$(awk -v n="$n" -v s="$(switches_added "$switches" \
		"$(for pid in "${PIDS[@]}"; do switches_of "$pid"; done)")" 'BEGIN {print s / n}')"
	stop_all
done

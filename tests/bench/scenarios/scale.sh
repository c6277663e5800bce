# shellcheck shell=bash source-path=SCRIPTDIR
# scale - 1, 8, 32, 64 and 128 guests of 32 MiB with a disk at once on this machine's /dev/kvm: what
# each costs at rest (memory, CPU time, context switches, threads, descriptors), and what each read of
# its disk costs while all of them read. It is flat if a guest among many costs no more than one among
# 8. QEMU's microvm, as small as it can be made, up to 32 guests for comparison.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

MIB=32
# shellcheck disable=SC2034 # the peer's option set names it
MEM=${MIB}M
SECONDS_EACH=10
SETTLE=6 # the kernel's io_uring workers end when they had nothing to do for 5
COUNTS=(1 8 32 64 128)
PEER_COUNTS=(1 8 32)
PEER_SECONDS=3
READS=2000 # by all guests together, while they are all loaded
[ -z "${BENCH_QUICK-}" ] || { SECONDS_EACH=2 COUNTS=(1 8 32) PEER_COUNTS=(1 8) READS=400; }
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
# shellcheck disable=SC2034
DISK=$OUT/disk.img KERNEL=build/bench/idle.elf
UNVMM_ARGS=("$UNVMM" run -k build/bench/idle.elf -m "$MEM" -o pit=false -d "$DISK,readonly=true")
peer_args common memory-microvm
PEER_ARGS=("${ARGS[@]}")

# start_all N TEXT COMMAND...: PIDS are N of it that have said TEXT.
start_all() {
	local n=$1 text=$2 i
	shift 2
	for ((i = 0; i < n; i++)); do
		: >"$OUT/console.$i"
		"$@" <&"$SILENCE" >"$OUT/console.$i" 2>"$OUT/stderr.$i" &
		PIDS+=($!)
	done
	for ((i = 0; i < n; i++)); do
		for _ in {1..1200}; do
			if grep -q "$text" "$OUT/console.$i"; then continue 2; fi
			kill -0 "${PIDS[i]}" 2>/dev/null || fail "guest $i of $n ended: $(cat "$OUT/stderr.$i")"
			sleep 0.05
		done
		fail "guest $i of $n says nothing within 60 s"
	done
}

available_kib() { awk '/^MemAvailable:/ {print $2}' /proc/meminfo; }

# each COMMAND...: for every guest's process.
each() {
	local pid
	for pid in "${PIDS[@]}"; do "$@" "$pid"; done
}

# ticks_of PID: CPU time so far, guest's included.
ticks_of() { sed 's/.*) //' "/proc/$1/stat" | awk '{print $12 + $13}'; }
descriptors_of() { find "/proc/$1/fd" -mindepth 1 | wc -l; }
threads_of() { find "/proc/$1/task" -mindepth 1 -maxdepth 1 | wc -l; }
sum() { awk '{n += $1} END {print n + 0}'; }

memory_of() {
	local kib
	kib=$(private_kib "$1" "$MIB") || fail "the memory of guest $1 cannot be counted"
	echo $((kib + $(keeper_kib "$1")))
}

# at_rest SUBJECT N: MEMORY of each, in KiB, and points of everything that is seen of PIDS.
at_rest() {
	local subject=$1 n=$2 ticks
	each memory_of >"$OUT/private"
	MEMORY=$(median <"$OUT/private")
	record point scale "$subject" "$n" memory_kib "$MEMORY"
	record point scale "$subject" "$n" threads "$(each threads_of | median)"
	record point scale "$subject" "$n" fds "$(each descriptors_of | median)"
	SWITCHES=$(each switches_of)
	ticks=$(each ticks_of | sum)
	sleep "$SECONDS_EACH"
	CPU_MS=$(awk -v a="$ticks" -v b="$(each ticks_of | sum)" -v n="$n" -v hz="$(getconf CLK_TCK)" \
		'BEGIN {print (b - a) * 1000 / hz / n}')
	SWITCHES=$(switches_added "$SWITCHES" "$(each switches_of)")
	record point scale "$subject" "$n" idle_ms "$(awk -v ms="$CPU_MS" -v s="$SECONDS_EACH" 'BEGIN {print ms * 10 / s}')"
}

# loaded N: CPU time of unvmm's own threads but main, which serves no disk, for each of the reads of N
# guests that all read.
loaded() {
	local reads=$((READS / $1))
	[ "$reads" -ge 20 ] || reads=20
	LOAD_ARGS=("$UNVMM" run -k build/guests/doorbell.elf -m "$MEM" -o pit=false -d "$DISK,readonly=true"
		-a "count=$reads halt")
	start_all "$1" halted "${LOAD_ARGS[@]}"
	US_PER_READ=$(awk -v us="$(each vmm_cpu_us | sum)" -v n="$1" -v r="$reads" 'BEGIN {print us / n / r}')
	stop_all
}

record figure scale-flat KiB "private memory of a guest's process without its RAM: among ${COUNTS[-1]}, and among 8"
record goal scale-flat ratio 1.05
for n in "${COUNTS[@]}"; do
	record figure "scale-memory-$n" KiB "private memory of each guest's process without its RAM, $n guests"
	record goal "scale-memory-$n" value 1536
	record figure "scale-host-$n" KiB "what the host's MemAvailable fell by, per guest, $n guests"
	record figure "scale-cpu-$n" ms "CPU time of each guest in $SECONDS_EACH s, $n guests"
	record goal "scale-cpu-$n" value 0
	record figure "scale-switches-$n" switches "of each guest's threads but vcpus in $SECONDS_EACH s, $n guests"
	record goal "scale-switches-$n" value 0
	for figure in memory host cpu switches; do
		record command "scale-$figure-$n" unvmm "for i in {1..$n}; do $(quoted "${UNVMM_ARGS[@]}") & done"
	done
	before=$(available_kib)
	start_all "$n" i "${UNVMM_ARGS[@]}"
	sleep "$SETTLE"
	record sample "scale-host-$n" unvmm 1 $(((before - $(available_kib)) / n))
	at_rest unvmm "$n"
	record sample "scale-memory-$n" unvmm 1 "$MEMORY"
	record note "scale-memory-$n" "from $(sort -n "$OUT/private" | head -n 1) to $(sort -n "$OUT/private" | tail -n 1) KiB"
	[ "$n" != 8 ] || record sample scale-flat peer 1 "$MEMORY"
	[ "$n" != "${COUNTS[-1]}" ] || record sample scale-flat unvmm 1 "$MEMORY"
	record sample "scale-cpu-$n" unvmm 1 "$CPU_MS"
	record sample "scale-switches-$n" unvmm 1 "$(awk -v n="$n" -v s="$SWITCHES" 'BEGIN {print s / n}')"
	stop_all

	loaded "$n"
	record figure "scale-load-$n" us/read "CPU time of the VMM's own threads for each read of 512 bytes, $n guests that all read"
	record command "scale-load-$n" unvmm "for i in {1..$n}; do $(quoted "${LOAD_ARGS[@]}") & done"
	record sample "scale-load-$n" unvmm 1 "$US_PER_READ"
	record point scale unvmm "$n" load_us "$US_PER_READ"
done
record command scale-flat unvmm "for i in {1..${COUNTS[-1]}}; do $(quoted "${UNVMM_ARGS[@]}") & done"

command -v qemu-system-x86_64 >/dev/null || { record note scale-flat "no peer: qemu-system-x86_64 is not installed" && exit; }
for n in "${PEER_COUNTS[@]}"; do
	record command "scale-memory-$n" peer "for i in {1..$n}; do $(quoted "${PEER_ARGS[@]}") & done"
	start_all "$n" i "${PEER_ARGS[@]}"
	sleep 2
	SECONDS_EACH=$PEER_SECONDS at_rest microvm "$n"
	record sample "scale-memory-$n" peer 1 "$MEMORY"
	stop_all
done

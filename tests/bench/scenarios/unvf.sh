# shellcheck shell=bash source-path=SCRIPTDIR
# unvf - functions of unvf on this machine's /dev/kvm, driven by guests/doorbell.c: what a doorbell
# costs by each of its ways and what a request takes then, and what a control access costs; and 64
# guests of 32 MiB with a function each, all of one unvf, at rest.
. "$(dirname "$0")/../lib.sh"
. "$BENCH_DIR/counters.sh"

GUESTS=64
FEW=8
MIB=32
COUNT=20000
CONFIG=1000
IDLE_COUNT=50
WINDOWS=6
WINDOW_S=3
[ -z "${BENCH_QUICK-}" ] || { GUESTS=16 COUNT=2000 CONFIG=100 IDLE_COUNT=20 WINDOWS=2; }
OUT=$BENCH_OUT/$SCENARIO.out
UNVF=${BENCH_UNVF:-build/unvf}
# A socket's path has 107 bytes at most, and a checkout may lie deep.
SOCKETS=$(mktemp -d)
PIDS=()
SERVER=
RT=()
RT_GUEST=()

need_kvm
stop_guests() {
	[ ${#PIDS[@]} = 0 ] || kill -KILL "${PIDS[@]}" 2>/dev/null || true
	[ ${#PIDS[@]} = 0 ] || wait "${PIDS[@]}" 2>/dev/null || true
	PIDS=()
}
stop_server() {
	[ -z "$SERVER" ] || { kill "$SERVER" && wait "$SERVER"; } 2>/dev/null || true
	SERVER=
}
trap 'stop_guests; stop_server; rm -rf "$SOCKETS"' EXIT
mkfifo "$OUT/silence"
exec {SILENCE}<>"$OUT/silence"
truncate -s 16M "$OUT/disk.img"

# start_server N OPTION...: a unvf with N disks, in SERVER; SERVER_ARGS is its first function.
start_server() {
	local n=$1 i args=()
	shift
	SERVER_ARGS=("$UNVF" --socket "$SOCKETS/0" --type blk --image "$OUT/disk.img" --read-only "$@")
	for ((i = 1; i < n; i++)); do
		args+=(--socket "$SOCKETS/$i" --type blk --image "$OUT/disk.img" --read-only "$@")
	done
	: >"$OUT/unvf.out"
	"${RT[@]}" "${SERVER_ARGS[@]}" "${args[@]}" >"$OUT/unvf.out" 2>"$OUT/unvf.err" &
	SERVER=$!
	for _ in {1..200}; do
		! grep -q ready "$OUT/unvf.out" || return 0
		kill -0 "$SERVER" 2>/dev/null || break
		sleep 0.05
	done
	fail "unvf is not ready: $(cat "$OUT/unvf.err")"
}

guest_args() { # SOCKET-NUMBER CMDLINE
	ARGS=("$UNVMM" run -k build/guests/doorbell.elf -m "${MIB}M" -o pit=false -a "$2"
		-o "vfs.0.socket=$SOCKETS/$1")
}

# value KEY TEXT: of the guest's BENCH line.
value() { sed -n "s/^BENCH.* $1=\([0-9]*\).*/\1/p" <<<"$2"; }
us() { awk -v c="$1" -v khz="$2" 'BEGIN {print c * 1000 / khz}'; }

# --- a doorbell -----------------------------------------------------------------------------------

# What each way asks of unvf, and of the guest.
declare -A DOORBELL=([mapped]=mmap [ioeventfd]=ioeventfd [exit]=mmap)
declare -A CMDLINE=([mapped]="count=$COUNT config=$CONFIG" [ioeventfd]="count=$COUNT" [exit]="count=$COUNT window")
# As the picture names them.
declare -A DOORBELL_IS=([mapped]="doorbell, mapped" [ioeventfd]="doorbell, ioeventfd" [exit]="doorbell, exit to user space")
declare -A READ_IS=([pci]="PCI configuration read" [common]="register read, shadowed" [device]="device configuration read"
	[start]="reset to DRIVER_OK, relayed")

# measure WAY: TEXT is what the guest said.
measure() {
	start_server 1 --doorbell "${DOORBELL[$1]}"
	guest_args 0 "${CMDLINE[$1]}"
	TEXT=$(timeout 120 "${ARGS[@]}" <&"$SILENCE" 2>"$OUT/stderr" | tr -d '\r') ||
		fail "$1: $(tail -n 3 "$OUT/stderr") $TEXT"
	stop_server
}

side_of() { if [ "$1" = mapped ]; then echo unvmm; else echo peer; fi; }

for way in ioeventfd exit; do
	record figure "unvf-kick-$way" cycles "of the guest per doorbell: mapped, and by $way"
	record figure "unvf-iops-$way" IOPS "one read of 512 bytes after the other: doorbell mapped, and by $way"
	record figure "unvf-latency-$way" us "from the doorbell to the completion: mapped, and by $way"
	for what in kick iops latency; do
		for side in mapped "$way"; do
			record command "unvf-$what-$way" "$(side_of "$side")" \
				"unvf --doorbell ${DOORBELL[$side]} ...; unvmm run -k doorbell.elf -a '${CMDLINE[$side]}' -o vfs.0.socket=..."
		done
	done
done
record goal unvf-kick-ioeventfd ratio 0.1
record note unvf-kick-exit "by the PCI configuration access capability: an exit to unvmm for each doorbell"

for read in pci common device start; do
	record figure "unvf-config-$read" cycles "${READ_IS[$read]}: what the guest waits for"
	record command "unvf-config-$read" unvmm "unvf --doorbell mmap ...; unvmm run -k doorbell.elf -a '${CMDLINE[mapped]}' -o vfs.0.socket=..."
done

for pair in $(seq "$BENCH_PAIRS"); do
	for way in mapped ioeventfd exit; do
		measure "$way"
		kick=$(value kick_median "$TEXT") iops=$(value iops "$TEXT")
		latency=$(us "$(value io_median "$TEXT")" "$(value tsc_khz "$TEXT")")
		record point cost unvmm "${DOORBELL_IS[$way]}" cycles "$kick"
		[ "$way" != mapped ] || for read in pci common device start; do
			cycles=$(sed -n "s/^CONFIG.* ${read}_median=\([0-9]*\).*/\1/p" <<<"$TEXT")
			record sample "unvf-config-$read" unvmm "$pair" "$cycles"
			record point cost unvmm "${READ_IS[$read]}" cycles "$cycles"
		done
		[ "$way" = exit ] || record point cost unvmm "request, $way doorbell to completion" cycles \
			"$(value io_median "$TEXT")"
		for of in ioeventfd exit; do
			[ "$way" = mapped ] || [ "$way" = "$of" ] || continue
			record sample "unvf-kick-$of" "$(side_of "$way")" "$pair" "$kick"
			record sample "unvf-iops-$of" "$(side_of "$way")" "$pair" "$iops"
			record sample "unvf-latency-$of" "$(side_of "$way")" "$pair" "$latency"
		done
	done
done

# --- many guests ----------------------------------------------------------------------------------

# start_guests FROM TO: they have done one read, and rest in hlt with a function that runs.
start_guests() {
	local i
	for ((i = $1; i < $2; i++)); do
		guest_args "$i" 'count=1 halt'
		"${ARGS[@]}" <&"$SILENCE" >"$OUT/console.$i" 2>"$OUT/stderr.$i" &
		PIDS+=($!)
	done
	for ((i = $1; i < $2; i++)); do
		for _ in {1..1200}; do
			! grep -q halted "$OUT/console.$i" || continue 2
			kill -0 "${PIDS[i]}" 2>/dev/null || fail "guest $i ended: $(cat "$OUT/stderr.$i")"
			sleep 0.05
		done
		fail "guest $i does not come to rest within 60 s"
	done
}

ticks() { sed 's/.*) //' "/proc/$SERVER/stat" | awk '{print $12 + $13}'; }

private_of_all() {
	local pid
	for pid in "${PIDS[@]}"; do
		private_kib "$pid" "$MIB" || fail "the memory of guest $pid cannot be counted"
	done
}

record figure unvf-memory KiB "private memory of each guest's process without its RAM: $GUESTS guests, and $FEW"
record goal unvf-memory ratio 1.05
record figure unvf-idle-cpu % "of one CPU: unvf with $GUESTS functions whose guests rest"
record goal unvf-idle-cpu value 5
record figure unvf-idle-memory KiB "private memory of unvf per function"
record figure unvf-first-kick us "read of 512 bytes by a guest that has rested for 100 ms, all $GUESTS at rest"
record goal unvf-first-kick value 2000
# Real-time priority for the two that are timed, where it may be had: else a busy machine measures
# when its other processes let them run. (Not above: two that spin would starve each other.)
if chrt -f 10 true 2>/dev/null; then
	RT=(chrt -f 10)
	RT_GUEST=(chrt -f 5)
fi
start_server "$GUESTS"
guest_args N 'count=1 halt'
record command unvf-memory unvmm "${RT[*]} ${SERVER_ARGS[*]##*/} ... & for N in {0..$((GUESTS - 1))}; do $(quoted "${ARGS[@]/$SOCKETS/DIR}") & done"
record command unvf-idle-cpu unvmm "the same; utime + stime of /proc/PID/stat over $WINDOW_S s"
start_guests 0 $FEW
sleep 6 # the kernel's io_uring workers end when they had nothing to do for 5
record sample unvf-memory peer 1 "$(private_of_all | median)"
start_guests $FEW $((GUESTS - 1))
sleep 6
private_of_all >"$OUT/private"
record sample unvf-memory unvmm 1 "$(median <"$OUT/private")"
record note unvf-memory "from $(sort -n "$OUT/private" | head -n 1) to $(sort -n "$OUT/private" | tail -n 1) KiB"
record sample unvf-idle-memory unvmm 1 "$(awk -v n=$GUESTS '/^Private_(Clean|Dirty):/ {k += $2} END {print k / n}' "/proc/$SERVER/smaps_rollup")"

guest_args $((GUESTS - 1)) "count=$IDLE_COUNT pause_us=100000 list halt"
record command unvf-first-kick unvmm "$(quoted "${RT_GUEST[@]}" "${ARGS[@]/$SOCKETS/DIR}")"
"${RT_GUEST[@]}" "${ARGS[@]}" <&"$SILENCE" >"$OUT/console.kick" 2>"$OUT/stderr.kick" &
PIDS+=($!)
for _ in {1..1200}; do
	! grep -q halted "$OUT/console.kick" || break
	sleep 0.05
done
grep -q halted "$OUT/console.kick" || fail "the kicking guest: $(tail -n 3 "$OUT/stderr.kick" "$OUT/console.kick")"
sed -n 's/^IO .*us=\([0-9]*\).*/\1/p' "$OUT/console.kick" >"$OUT/first-kick"
pair=0
while read -r sample; do
	record sample unvf-first-kick unvmm $((++pair)) "$sample"
done <"$OUT/first-kick"
record note unvf-first-kick "$(sort -n "$OUT/first-kick" | awk '{v[NR] = $1; late += $1 > 2000}
	END {print "smallest " v[1] ", 9 of 10 below " v[int(NR * 9 / 10)] ", largest " v[NR] " us; " late + 0 " of " NR " above 2000 us"}')"

for window in $(seq "$WINDOWS"); do
	before=$(ticks)
	sleep "$WINDOW_S"
	record sample unvf-idle-cpu unvmm "$window" \
		"$(awk -v a="$before" -v b="$(ticks)" -v s="$WINDOW_S" -v hz="$(getconf CLK_TCK)" 'BEGIN {print (b - a) * 100 / hz / s}')"
done

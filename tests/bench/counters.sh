# shellcheck shell=bash
# Counts taken from a running VMM without its help, the same for every VMM. Sourced, never run.

TRACING=/sys/kernel/tracing
USERSPACE_EXIT=$TRACING/events/kvm/kvm_userspace_exit
KVM_EXIT_IO=2

# exits_enable: from here on the kernel counts returns of KVM_RUN to user space, per thread and
# reason. False if this kernel cannot.
exits_enable() {
	[ -e "$TRACING/trace" ] || mount -t tracefs tracefs "$TRACING" 2>/dev/null || return 1
	grep -q hist: "$USERSPACE_EXIT/trigger" 2>/dev/null ||
		echo 'hist:keys=common_pid,reason:size=8192' >"$USERSPACE_EXIT/trigger" 2>/dev/null
}

# exits_disable: takes the counter away again.
exits_disable() {
	echo '!hist:keys=common_pid,reason:size=8192' >"$USERSPACE_EXIT/trigger" 2>/dev/null || true
}

# exits_by_reason PID: a line "REASON COUNT" for each kind of exit (linux/kvm.h, KVM_EXIT_*).
exits_by_reason() {
	local tasks=("/proc/$1/task"/*)
	awk -v tasks="${tasks[*]##*/}" 'BEGIN {n = split(tasks, t); for (i = 1; i <= n; i++) mine[t[i]] = 1}
		/common_pid:/ {gsub(/[,{}]/, ""); if ($2 in mine) count[$4] += $6}
		END {for (r in count) print r, count[r] | "sort -n"}' "$USERSPACE_EXIT/hist"
}

# exits_of PID: without port I/O, which in all the machines here is the console's alone.
exits_of() {
	local reason count sum=0
	while read -r reason count; do
		[ "$reason" = $KVM_EXIT_IO ] || sum=$((sum + count))
	done < <(exits_by_reason "$1")
	echo "$sum"
}

# private_kib PID MIB: memory of the process that nobody else shares, without the guest's RAM: the
# memfd of that name, or the anonymous mappings that are kept out of core dumps (dd in VmFlags); up to
# 1 MiB of these may be a firmware's. What it shares with its keeper, a fork that has written little
# since, belongs to it too.
private_kib() {
	awk -v ram_kib=$(($2 * 1024)) '
		/^[0-9a-f]+-[0-9a-f]+ / {name = $6; n = 0}
		/^Size:/ {size = $2}
		/^(Private_(Clean|Dirty)|Shared_Dirty):/ {n += $2}
		/^VmFlags:/ {
			if (name ~ /memfd:guest-ram/ || (name == "" && / dd( |$)/)) ram += size
			else total += n
		}
		END {
			if (ram < ram_kib || ram > ram_kib + 1024) {print "guest RAM is not to be told from the rest" >"/dev/stderr"; exit 1}
			print total + 0
		}' "/proc/$1/smaps"
}

# keeper_kib PID: private memory of the process that keeps the names of its sockets; 0 without one.
keeper_kib() {
	local child name total=0
	for child in $(<"/proc/$1/task/$1/children"); do
		read -r name 2>/dev/null <"/proc/$child/comm" || continue
		[ "$name" = unvmm-keeper ] || continue
		total=$(awk '/^Private_(Clean|Dirty):/ {n += $2} END {print n + 0}' "/proc/$child/smaps_rollup")
	done
	echo "$total"
}

# vmm_cpu_us PID: CPU time of its threads that are neither virtual CPUs nor the first one.
vmm_cpu_us() {
	local task name ns sum=0
	for task in "/proc/$1/task"/*; do
		read -r name 2>/dev/null <"$task/comm" || continue
		case $name:${task##*/} in vcpu* | CPU\ * | *:"$1") continue ;; esac
		read -r ns _ <"$task/schedstat" && sum=$((sum + ns))
	done
	echo $((sum / 1000))
}

# largest_mappings PID: the five with the most private memory but the guest's RAM, "KIB NAME (SIZE)"
# each, on one line.
largest_mappings() {
	awk '/^[0-9a-f]+-[0-9a-f]+ / {name = NF > 5 ? $6 : "anonymous"; size = ""; kib = 0}
		/^Size:/ {size = $2}
		/^Private_(Clean|Dirty):/ {kib += $2}
		/^VmFlags:/ {if (kib && !/ dd( |$)/ && name !~ /guest-ram/) n[name " (" size " KiB)"] += kib}
		END {for (i in n) print n[i], i}' "/proc/$1/smaps" | sort -rn | head -n 5 | paste -sd ';' | sed 's/;/; /g'
}

# switches_of PID: a line "THREAD COUNT" with the context switches so far of each thread that is no
# virtual CPU.
switches_of() {
	local task name key value sum
	for task in "/proc/$1/task"/*; do
		read -r name 2>/dev/null <"$task/comm" || continue
		case $name in vcpu* | CPU\ *) continue ;; esac
		sum=0
		while read -r key value; do
			case $key in *ctxt_switches:) sum=$((sum + value)) ;; esac
		done 2>/dev/null <"$task/status" || continue
		echo "${task##*/} $sum"
	done
}

# switches_added BEFORE AFTER: how many the second listing has more; a thread that is not in it has
# ended, which takes one.
switches_added() {
	awk 'NR == FNR {if (NF) was[$1] = $2; next}
		NF {n += $2 - was[$1]; delete was[$1]}
		END {for (t in was) n++; print n + 0}' <(echo "$1") <(echo "$2")
}

# host_cpu_us PID: CPU time of all its threads, without what the guest itself ran. Where the tick
# decides which of both a time is, the guest gets what KVM does with interrupts off, and single runs
# of 1 s are some 30 % off; hosts with --exact-time tell them apart.
host_cpu_us() {
	local stat
	stat=$(<"/proc/$1/stat")
	# shellcheck disable=SC2086 # fields 3 and on
	set -- ${stat##*) }
	echo $(((${12} + ${13} - ${41}) * 1000000 / CLOCK_TICKS))
}

host_cpu_ms() { echo $(($(host_cpu_us "$1") / 1000)); }

# kvm_exits PID: of its VM, those that the kernel served included, without port I/O, as exits_of; 0 where
# debugfs does not say.
kvm_exits() {
	local all=0 io=0 folder
	folder=$(echo /sys/kernel/debug/kvm/"$1"-*)
	{ read -r all <"$folder/exits" && read -r io <"$folder/io_exits"; } 2>/dev/null || true
	echo $((all - io))
}

CLOCK_TICKS=$(getconf CLK_TCK)

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
	local tasks
	tasks=$(ls "/proc/$1/task")
	awk -v tasks="$tasks" 'BEGIN {n = split(tasks, t); for (i = 1; i <= n; i++) mine[t[i]] = 1}
		/common_pid:/ {gsub(/[,{}]/, ""); if ($2 in mine) count[$4] += $6}
		END {for (r in count) print r, count[r]}' "$USERSPACE_EXIT/hist" | sort -n
}

# exits_of PID: without port I/O, which in all the machines here is the console's alone.
exits_of() { exits_by_reason "$1" | awk -v io=$KVM_EXIT_IO '$1 != io {n += $2} END {print n + 0}'; }

# private_kib PID: memory of the process that nobody else shares, without the guest's RAM.
private_kib() {
	awk '/^[0-9a-f]+-[0-9a-f]+ / {ram = /memfd:guest-ram/}
		/^Private_(Clean|Dirty):/ && !ram {n += $2} END {print n + 0}' "/proc/$1/smaps"
}

# switches_of PID: context switches of all its threads but the virtual CPUs'.
switches_of() {
	local task name n total=0
	for task in "/proc/$1/task"/*; do
		name=$(cat "$task/comm" 2>/dev/null) || continue
		case $name in vcpu*) continue ;; esac
		n=$(awk '/ctxt_switches/ {n += $2} END {print n}' "$task/status")
		total=$((total + n))
	done
	echo "$total"
}

# host_cpu_ms PID: CPU time of all its threads, without what the guest itself ran.
host_cpu_ms() {
	sed 's/.*) //' "/proc/$1/stat" |
		awk -v hz="$(getconf CLK_TCK)" '{print ($12 + $13 - $41) * 1000 / hz}'
}

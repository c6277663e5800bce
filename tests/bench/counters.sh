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

# private_kib PID MIB: memory of the process that nobody else shares, without the guest's RAM: the
# memfd of that name, or the anonymous mappings that are kept out of core dumps (dd in VmFlags).
private_kib() {
	awk -v ram_kib=$(($2 * 1024)) '
		/^[0-9a-f]+-[0-9a-f]+ / {name = $6; n = 0}
		/^Size:/ {size = $2}
		/^Private_(Clean|Dirty):/ {n += $2}
		/^VmFlags:/ {
			if (name ~ /memfd:guest-ram/ || (name == "" && / dd( |$)/)) ram += size
			else total += n
		}
		END {
			if (ram != ram_kib) {print "guest RAM is not to be told from the rest" >"/dev/stderr"; exit 1}
			print total + 0
		}' "/proc/$1/smaps"
}

# largest_mappings PID: the five with the most private memory, "KIB NAME" each, on one line.
largest_mappings() {
	awk '/^[0-9a-f]+-[0-9a-f]+ / {name = NF > 5 ? $6 : "anonymous"; size = ""}
		/^Size:/ {size = $2}
		/^Private_(Clean|Dirty):/ && $2 {n[name " (" size " KiB)"] += $2}
		END {for (i in n) print n[i], i}' "/proc/$1/smaps" | sort -rn | head -n 5 | paste -sd ';' | sed 's/;/; /g'
}

# switches_of PID: a line "THREAD COUNT" with the context switches so far of each thread that is no
# virtual CPU.
switches_of() {
	local task name
	for task in "/proc/$1/task"/*; do
		read -r name 2>/dev/null <"$task/comm" || continue
		case $name in vcpu*) continue ;; esac
		awk -v t="${task##*/}" '/ctxt_switches/ {n += $2} END {print t, n}' "$task/status"
	done
}

# switches_added BEFORE AFTER: how many the second listing has more; a thread that is not in it has
# ended, which takes one.
switches_added() {
	awk 'NR == FNR {if (NF) was[$1] = $2; next}
		NF {n += $2 - was[$1]; delete was[$1]}
		END {for (t in was) n++; print n + 0}' <(echo "$1") <(echo "$2")
}

# host_cpu_ms PID: CPU time of all its threads, without what the guest itself ran.
host_cpu_ms() {
	sed 's/.*) //' "/proc/$1/stat" |
		awk -v hz="$(getconf CLK_TCK)" '{print ($12 + $13 - $41) * 1000 / hz}'
}

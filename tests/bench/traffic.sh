# shellcheck shell=bash source-path=SCRIPTDIR disable=SC2034 # results are for the scenarios
# SPDX-License-Identifier: Apache-2.0
# What goes through a guest's network card. Sourced after guests.sh, never run.

declare -A ADDRESS # of each guest
declare -A SERVER  # whom it talks to
PEER=()            # what a command begins with that runs where the server is
ECHOES=500
SECONDS_EACH=1
[ -z "${BENCH_QUICK-}" ] || ECHOES=200

# serve: iperf3 for all guests; again, if a guest died in the midst of a run.
serve() {
	pkill -x iperf3 || true
	"${PEER[@]}" iperf3 -s -D >/dev/null
}

# net_up NAME: address inside the guest, and one answer.
net_up() {
	guest_run "$1" 30 "ip link set eth0 up; ip addr add ${ADDRESS[$1]}/24 dev eth0; ping -c 1 -W 3 ${SERVER[$1]}" &&
		[[ $(<"$TESTBED_SCRATCH/$1.out") = *' 1 packets received'* ]]
}

# vhost_us NAME: CPU time of the kernel's threads that move packets for it.
vhost_us() {
	local task stat sum=0
	for task in $(pgrep -x "vhost-${PIDS[$1]}"); do
		stat=$(<"/proc/$task/stat")
		# shellcheck disable=SC2086 # fields 3 and on
		set -- "$1" ${stat##*) }
		sum=$((sum + ${13} + ${14}))
	done
	echo $((sum * 1000000 / CLOCK_TICKS))
}

# run_net NAME KIND [SECONDS]: one run of what bench-net knows, or "echo": VALUE, UNITS (how many things
# the counts are for: packets, megabytes, echoes), and counts_end's; or false with a message. QUIET: see
# run_fio.
run_net() {
	local name=$1 kind=$2 seconds=${3:-$SECONDS_EACH} line vhost
	VALUE=0
	vhost=$(vhost_us "$name")
	if [ "$kind" = echo ]; then
		counts_begin "$name"
		line=$("${PEER[@]}" ping -q -f -c "$ECHOES" -s 56 -w 20 "${ADDRESS[$name]}") || true
		counts_end "$name"
		# A flood may send a few more than it was told.
		if [[ $line =~ ([0-9]+)\ received,\ 0%\ packet\ loss.*rtt\ [^=]*=\ [0-9.]+/([0-9.]+)/ ]]; then
			UNITS=${BASH_REMATCH[1]}
			VALUE=$(per 0.001 "${BASH_REMATCH[2]}")
		fi
	else
		[ -n "${QUIET-}" ] || counts_begin "$name"
		guest_begin "$name" "${QUIET:+sleep 1; }sh /agents/bench-net ${SERVER[$name]} $kind $seconds"
		[ -z "${QUIET-}" ] || { sleep 0.6 && counts_begin "$name"; }
		guest_end "$name" $((60 + 3 * seconds)) || return 1
		counts_end "$name"
		line=$(<"$TESTBED_SCRATCH/$name.out")
		[[ $line =~ \"value\":\ ([0-9.]+) ]] && VALUE=${BASH_REMATCH[1]}
		case $kind in
		tcp-*) UNITS=$(per 8 "$(per "$(per "$seconds" 1)" "$VALUE")") ;; # MB
		udp-*) UNITS=$(per "$(per "$seconds" 1)" "$VALUE") ;;
		esac
	fi
	CPU_US=$((CPU_US + $(vhost_us "$name") - vhost))
	if [ "$VALUE" = 0 ] || [ "$VALUE" = 0.0 ]; then
		say "$name: no result of $kind: $(tail -n 3 "$TESTBED_SCRATCH/$name.out") $line"
		return 1
	fi
}

# net_on NAME FIGURE KIND [SECONDS]: run_net, in a new guest if the old one died.
net_on() {
	local name=$1 figure=$2
	shift 2
	until run_net "$name" "$@"; do
		serve
		guest_again "$name" "$figure" || fail "$name: its guests die"
		net_up "$name" || fail "$name: no network in the new guest"
	done
}

# net_points PLOT NAME KIND: of the last run, for the picture.
net_points() {
	record point "$1" "$2" "$3" value "$VALUE"
	record point "$1" "$2" "$3" cpu_us "$(per "$UNITS" "$CPU_US")"
	record point "$1" "$2" "$3" exits "$(per "$UNITS" "$EXITS")"
}

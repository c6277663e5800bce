# shellcheck shell=bash disable=SC2054,SC2034 # QEMU writes commas; COMMAND is for run and shell
# SPDX-License-Identifier: Apache-2.0
# Starts hosts under test (L1): each a QEMU without any hardware help whose CPU has AMD SVM, with an
# IOMMU and virtio functions. Options of run and shell are parsed here too. Sourced after lib.sh.

HOSTS=1
HOST_CPUS=2
HOST_EXACT=0 # 1: one CPU more
HOST_MEM=4G
HOST_TIMEOUT=1800
HOST_OUTPUT=
HOST_VFS=()
HOST_PIDS=() # by number, from 1
HOST_READERS=()
BOOT_LIMIT=90

# Slots 3.. of the root bus are for virtio functions, each in an IOMMU group of its own; the devices
# that the host itself needs come after them.
FIRST_VF_SLOT=3
FIRST_OWN_SLOT=24
VF_DEFAULTS=disable-legacy=on,iommu_platform=on,ats=on,romfile=

KERNEL_ARGS=(console=ttyS0 rdinit=/init panic=-1 intel_iommu=on iommu=nopt mitigations=off nokaslr tsc=reliable
	nmi_watchdog=0 audit=0 no_timer_check random.trust_cpu=on init_on_alloc=0 softlockup_panic=1
	watchdog_thresh=30 sysctl.kernel.panic_on_rcu_stall=1 rcupdate.rcu_cpu_stall_timeout=60)

HOST_USAGE="  --vf blk[,KEY=VALUE]...  a virtio block function, bound to vfio-pci (keys: QEMU's virtio-blk-pci)
  --vf net[,KEY=VALUE]...  a virtio net function (keys: QEMU's virtio-net-pci); both repeatable
  --hosts 2                two of them on one LAN; COMMAND runs on the first, \"on 2 ...\" on the other
  --cpus N                 CPUs of the host (default $HOST_CPUS)
  --exact-time             time in guests is counted to the ns, not by the tick, on these CPUs; one more,
                           number 0, keeps the time and takes interrupts (environment: TESTBED_EXACT_CPUS)
  --mem M                  memory of the host (default $HOST_MEM)
  --output DIR             where the kernel log and results go (default: a folder removed at the end)
  --timeout S              end everything after S seconds, status 124 (default $HOST_TIMEOUT)"

# parse_options ARG...: sets the HOST_ variables, and COMMAND to what follows the options.
parse_options() {
	COMMAND=()
	while [ $# -gt 0 ]; do
		case $1 in
		--hosts | --vf | --cpus | --mem | --output | --timeout)
			[ $# -ge 2 ] || die 2 "$1 needs a value"
			;;&
		--hosts)
			[[ $2 = [12] ]] || die 2 "--hosts $2: it is 1 or 2"
			HOSTS=$2
			;;
		--vf) HOST_VFS+=("$2") ;;
		--cpus) HOST_CPUS=$2 ;;
		--mem) HOST_MEM=$2 ;;
		--output) HOST_OUTPUT=$(realpath -m "$2") ;;
		--timeout) HOST_TIMEOUT=$2 ;;
		--exact-time) HOST_EXACT=1 && shift && continue ;;
		-h | --help) show_usage "$0" && echo "$HOST_USAGE" && exit ;;
		--) shift && COMMAND=("$@") && return ;;
		*) die 2 "unknown option $1 (see -h)" ;;
		esac
		shift 2
	done
}

check_tools() {
	need qemu-system-x86_64 qemu-system-x86 setpriv util-linux
	qemu-system-x86_64 -accel help | grep -q '^tcg' || die 126 "this QEMU has no TCG"
	case $CHECKOUT$BUILD$HOST_OUTPUT in
	*[[:space:],]*) die 126 "no blanks or commas, please, in $CHECKOUT, $BUILD, $HOST_OUTPUT" ;;
	esac
}

prepare() {
	"$TESTBED_DIR/kernels"
	"$TESTBED_DIR/initramfs"
	current "$BUILD/tsc-khz" "$TESTBED_DIR/tsc-khz.c" ||
		locked tsc-khz gcc -O2 -o "$BUILD/tsc-khz" "$TESTBED_DIR/tsc-khz.c"
	mkdir -p "$BUILD/bin"
	current "$BUILD/bin/on" "$TESTBED_DIR/on.c" ||
		locked on gcc -std=gnu11 -O2 -Wall -Wextra -Werror -static -o "$BUILD/bin/on" "$TESTBED_DIR/on.c"
}

hex() { printf '%x' "$1"; }

# vf_devices NUMBER: QEMU's arguments for that host's functions in ARGS, their addresses and kinds in
# VF_ADDRESSES and VF_KINDS. All block functions share one image, net functions and the host's own card
# one hub, which a wire joins to the other host's.
vf_devices() {
	local spec kind keys slot=$FIRST_VF_SLOT own=$FIRST_OWN_SLOT n=0 nets=$((HOSTS - 1)) mac
	mac=52:54:00:$(printf %02x $(($1 - 1)))
	for spec in "${HOST_VFS[@]}"; do
		kind=${spec%%,*}
		keys=${spec#"$kind"}
		[ "$slot" -lt "$own" ] || die 2 "at most $((own - FIRST_VF_SLOT)) functions"
		case $kind in
		blk)
			ARGS+=(-drive "id=vf$n,if=none,format=raw,file=$STATE/blk.img,file.locking=off,discard=unmap"
				-device "virtio-blk-pci,drive=vf$n,share-rw=on,addr=$(hex "$slot"),$VF_DEFAULTS$keys")
			;;
		net)
			ARGS+=(-netdev "hubport,id=vf$n,hubid=0"
				-device "virtio-net-pci,netdev=vf$n,addr=$(hex "$slot"),mac=$mac:01:$(printf %02x $n),$VF_DEFAULTS$keys")
			nets=$((nets + 1))
			;;
		*) die 2 "--vf $spec: the kind is blk or net" ;;
		esac
		VF_KINDS+=("$kind")
		VF_ADDRESSES+=("$(printf '0000:00:%02x.0' "$slot")")
		slot=$((slot + 1))
		n=$((n + 1))
	done
	if [ "$nets" -gt 0 ]; then
		ARGS+=(-netdev hubport,id=own,hubid=0
			-device "virtio-net-pci,netdev=own,addr=$(hex $((own + 3))),mac=$mac:02:00,romfile=")
	fi
	if [ "$HOSTS" -gt 1 ]; then
		ARGS+=(-netdev "stream,id=wire,server=$([ "$1" = 1 ] && echo on || echo off),addr.type=unix,addr.path=wire"
			-netdev hubport,id=wireport,hubid=0,netdev=wire)
	fi
	if [[ " ${VF_KINDS[*]} " == *" blk "* ]]; then
		truncate -s 1G "$STATE/blk.img"
	fi
}

# write_environment NUMBER: what commands on that host find in their environment, for l1/start to read.
write_environment() {
	local flavour i
	{
		declare -p "${!UNVMM@}" "${!TESTBED_@}" | sed 's/^declare -[^ ]* /export /'
		echo "export TESTBED_HOST=$1 TESTBED_HOSTS=$HOSTS"
		echo "export PATH=$BUILD/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C"
		echo "export TESTBED_CHECKOUT=$CHECKOUT TESTBED_OUTPUT=$HOST_OUTPUT TESTBED_SCRATCH=/run/testbed/scratch"
		for flavour in "${FLAVOURS[@]}"; do
			echo "export TESTBED_KERNEL_${flavour^^}=$BUILD/kernel-$flavour/vmlinuz"
			echo "export TESTBED_VMLINUX_${flavour^^}=$BUILD/kernel-$flavour/vmlinux"
			echo "export TESTBED_INITRD_${flavour^^}=$BUILD/guest-$flavour.cpio"
			echo "export TESTBED_SMALL_INITRD_${flavour^^}=$BUILD/small-$flavour.cpio"
		done
		[ $HOST_EXACT = 0 ] || echo "export TESTBED_EXACT_CPUS=1-$HOST_CPUS"
		echo "export TESTBED_VFS=${#VF_KINDS[@]}"
		for i in "${!VF_KINDS[@]}"; do
			echo "export TESTBED_VF$i=${VF_ADDRESSES[i]} TESTBED_VF${i}_KIND=${VF_KINDS[i]}"
		done
	} >"$STATE/host$1/env"
}

# host_start NUMBER COMMAND...: starts a host that runs COMMAND. With TTY (the settings of this
# terminal) the command gets it, else its output comes on fds 1 and 2.
host_start() {
	local n=$1 own=$FIRST_OWN_SLOT out err VF_KINDS=() VF_ADDRESSES=() ARGS
	shift
	mkdir -p "$STATE/host$n"
	ARGS=(-name "host$n" -nodefaults -display none -no-reboot -no-user-config
		-M q35,kernel-irqchip=split,sata=off,smbus=off,vmport=off,hpet=off
		-accel tcg,thread=multi,tb-size=1024 -cpu EPYC,+svm,+npt
		-smp $((HOST_CPUS + HOST_EXACT)) -m "$HOST_MEM"
		-device intel-iommu,intremap=on,caching-mode=on,device-iotlb=on
		-kernel "$BUILD/kernel-generic/vmlinux" -initrd "$BUILD/l1.cpio"
		-serial "file:$(kernel_log "$n")"
		-fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
		-device "virtio-9p-pci,fsdev=root,mount_tag=root,addr=$(hex "$own")"
		-fsdev "local,id=output,path=$HOST_OUTPUT,security_model=none"
		-device "virtio-9p-pci,fsdev=output,mount_tag=output,addr=$(hex $((own + 1)))"
		-device "virtio-serial-pci,addr=$(hex $((own + 2)))")
	vf_devices "$n"
	write_environment "$n"
	printf '%q ' "$@" >"$STATE/host$n/command"
	local append=("${KERNEL_ARGS[@]}" "tsc_early_khz=$("$BUILD/tsc-khz")" "testbed.name=host$n" "testbed.output=$HOST_OUTPUT"
		"testbed.start=$TESTBED_DIR/l1/start" "testbed.vfs=$(IFS=,; echo "${VF_ADDRESSES[*]}")"
		"testbed.nic=$(printf '0000:00:%02x.0' $((own + 3)))"
		"testbed.modules=$(realpath "$BUILD/kernel-generic/lib/modules"/*)")
	[ $HOST_EXACT = 0 ] || append+=("nohz_full=1-$HOST_CPUS" irqaffinity=0)
	ARGS+=(-append "${append[*]}")
	if [ -n "${TTY-}" ]; then
		echo "export TESTBED_TTY='$TTY' TESTBED_SIZE='$(stty size)' TERM='${TERM-}'" >>"$STATE/host$n/env"
		ARGS+=(-chardev stdio,id=tty,signal=off -device virtconsole,chardev=tty)
		launch "$n" "${ARGS[@]}" <&0
	else
		exec {out}> >(exec cat)
		HOST_READERS+=($!)
		exec {err}> >(exec cat >&2)
		HOST_READERS+=($!)
		ARGS+=(-add-fd "fd=$out,set=1" -chardev file,id=out,path=/dev/fdset/1,append=on -device virtserialport,nr=1,chardev=out
			-add-fd "fd=$err,set=2" -chardev file,id=err,path=/dev/fdset/2,append=on -device virtserialport,nr=2,chardev=err)
		launch "$n" "${ARGS[@]}" </dev/null
		exec {out}>&- {err}>&-
	fi
}

# launch NUMBER ARG...: QEMU in the background, under a time limit; it ends when this script does.
launch() {
	local n=$1
	shift
	setpriv --pdeathsig TERM timeout --foreground -k 3 "$HOST_TIMEOUT" \
		setpriv --pdeathsig KILL env -C "$STATE" qemu-system-x86_64 "$@" 2>"$STATE/host$n/qemu.log" <&0 &
	HOST_PIDS[n]=$!
}

kernel_log() { echo "$HOST_OUTPUT/host$1-kernel.log"; }

runs() { [ -n "${HOST_PIDS[$1]-}" ] && kill -0 "${HOST_PIDS[$1]}" 2>/dev/null; }

# hosts_start COMMAND...: all hosts; all but the first serve that one's "on".
hosts_start() {
	local n
	if [ -z "$HOST_OUTPUT" ]; then
		mkdir -p "$BUILD"
		HOST_OUTPUT=$(mktemp -d "$BUILD/run.XXXXXX")
		TEMPORARY_OUTPUT=1
	fi
	STATE=$HOST_OUTPUT/.testbed
	rm -rf "$STATE"
	mkdir -p "$STATE"
	host_start 1 "$@"
	for ((n = 2; n <= HOSTS; n++)); do
		while runs 1 && [ ! -S "$STATE/wire" ]; do sleep 0.05; done
		host_start "$n" on -s
	done
}

# hosts_up: waits until the first host has its command or has ended; false if neither within
# BOOT_LIMIT s. It has its command when all others are up.
hosts_up() {
	local end=$((SECONDS + BOOT_LIMIT))
	while runs 1 && [ ! -e "$STATE/host1/up" ]; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}

hosts_stop() {
	local pid
	for pid in "${HOST_PIDS[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	HOST_PIDS=()
}

# died NUMBER TEXT: says so, with the end of that host's kernel log.
died() {
	say "host$1: $2; last lines of its kernel log:"
	tail -n 30 "$(kernel_log "$1")" | tr -d '\r' >&2
}

# hosts_wait: waits for the first host to end, or for another to die; the status of the command.
hosts_wait() {
	local status=0 n dead=
	wait -n "${HOST_PIDS[@]}" || status=$?
	for ((n = 2; n <= HOSTS; n++)); do
		runs "$n" || dead=$n
	done
	hosts_stop
	[ ${#HOST_READERS[@]} = 0 ] || wait "${HOST_READERS[@]}" || true
	grep -hvE "TCG doesn't support requested feature|hub 0 is not connected|terminating on signal" \
		"$STATE"/host*/qemu.log >&2 || true
	if [ -s "$STATE/host1/status" ]; then
		return "$(cat "$STATE/host1/status")"
	elif [ -n "$dead" ]; then
		died "$dead" "the host died"
		return 125
	elif [ "$status" = 124 ] || [ "$status" = 137 ]; then
		say "no end after $HOST_TIMEOUT s"
		return 124
	elif [ ! -s "$(kernel_log 1)" ]; then
		say "QEMU ended with status $status"
		return 126
	fi
	died 1 "the host died"
	return 125
}

# host_cleanup: for the exit trap: ends what still runs and removes what was only for this run.
host_cleanup() {
	local status=$?
	trap '' INT TERM
	hosts_stop
	[ -z "${TTY-}" ] || stty "$TTY"
	[ -z "${STATE-}" ] || rm -rf "$STATE"
	if [ -n "${TEMPORARY_OUTPUT-}" ]; then
		case $status in
		124 | 125 | 126) say "the logs stay in $HOST_OUTPUT" ;;
		*) rm -rf "$HOST_OUTPUT" ;;
		esac
	fi
}

# host_main COMMAND...: hosts from start to end; the command's status is this script's.
host_main() {
	check_tools
	prepare
	trap host_cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	# An emulated host hangs now and then while it boots; its command has not begun then.
	local try
	for try in 1 2 3; do
		hosts_start "$@"
		! hosts_up || break
		say "not all hosts came up in $BOOT_LIMIT s (try $try of 3)"
		hosts_stop
	done
	[ ${#HOST_PIDS[@]} -gt 0 ] || {
		died 1 "it did not come up"
		return 125
	}
	hosts_wait
}

# shellcheck shell=bash disable=SC2054,SC2034 # QEMU writes commas; COMMAND is for run and shell
# SPDX-License-Identifier: Apache-2.0
# Starts one host under test (L1): a QEMU without any hardware help whose CPU has AMD SVM, with an
# IOMMU and virtio functions. Options of run and shell are parsed here too. Sourced after lib.sh.

HOST_CPUS=2
HOST_MEM=4G
HOST_TIMEOUT=1800
HOST_OUTPUT=
HOST_VFS=()
HOST_PID=
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
  --cpus N                 CPUs of the host (default $HOST_CPUS)
  --mem M                  memory of the host (default $HOST_MEM)
  --output DIR             where the kernel log and results go (default: a folder removed at the end)
  --timeout S              end everything after S seconds, status 124 (default $HOST_TIMEOUT)"

# parse_options ARG...: sets the HOST_ variables, and COMMAND to what follows the options.
parse_options() {
	COMMAND=()
	while [ $# -gt 0 ]; do
		case $1 in
		--vf | --cpus | --mem | --output | --timeout)
			[ $# -ge 2 ] || die 2 "$1 needs a value"
			;;&
		--vf) HOST_VFS+=("$2") ;;
		--cpus) HOST_CPUS=$2 ;;
		--mem) HOST_MEM=$2 ;;
		--output) HOST_OUTPUT=$(realpath -m "$2") ;;
		--timeout) HOST_TIMEOUT=$2 ;;
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
}

hex() { printf '%x' "$1"; }

# vf_devices: QEMU's arguments for the functions in ARGS, their addresses and kinds in VF_ADDRESSES
# and VF_KINDS. Block functions share one image, net functions and the host's own card one hub.
vf_devices() {
	local spec kind keys slot=$FIRST_VF_SLOT own=$FIRST_OWN_SLOT n=0 nets=0
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
				-device "virtio-net-pci,netdev=vf$n,addr=$(hex "$slot"),mac=52:54:00:00:01:$(printf %02x $n),$VF_DEFAULTS$keys")
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
			-device "virtio-net-pci,netdev=own,addr=$(hex $((own + 3))),mac=52:54:00:00:02:00,romfile=")
	fi
	if [[ " ${VF_KINDS[*]} " == *" blk "* ]]; then
		truncate -s 1G "$STATE/blk.img"
	fi
}

# write_environment: what the command finds in its environment, for l1/start to read.
write_environment() {
	local flavour i
	{
		declare -p "${!UNVMM@}" "${!TESTBED_@}" | sed 's/^declare -[^ ]* /export /'
		echo "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C"
		echo "export TESTBED_CHECKOUT=$CHECKOUT TESTBED_OUTPUT=$HOST_OUTPUT TESTBED_SCRATCH=/run/testbed/scratch"
		for flavour in "${FLAVOURS[@]}"; do
			echo "export TESTBED_KERNEL_${flavour^^}=$BUILD/kernel-$flavour/vmlinuz"
			echo "export TESTBED_VMLINUX_${flavour^^}=$BUILD/kernel-$flavour/vmlinux"
			echo "export TESTBED_INITRD_${flavour^^}=$BUILD/guest-$flavour.cpio"
			echo "export TESTBED_SMALL_INITRD_${flavour^^}=$BUILD/small-$flavour.cpio"
		done
		echo "export TESTBED_VFS=${#VF_KINDS[@]}"
		for i in "${!VF_KINDS[@]}"; do
			echo "export TESTBED_VF$i=${VF_ADDRESSES[i]} TESTBED_VF${i}_KIND=${VF_KINDS[i]}"
		done
	} >"$STATE/env"
}

# host_start NAME COMMAND...: starts a host that runs COMMAND; HOST_PID is its process. With TTY
# (the settings of this terminal) the command gets it, else its output comes on fds 1 and 2.
host_start() {
	local name=$1 own=$FIRST_OWN_SLOT out err VF_KINDS=() VF_ADDRESSES=() ARGS
	shift
	if [ -z "$HOST_OUTPUT" ]; then
		mkdir -p "$BUILD"
		HOST_OUTPUT=$(mktemp -d "$BUILD/run.XXXXXX")
		TEMPORARY_OUTPUT=1
	fi
	STATE=$HOST_OUTPUT/.testbed
	rm -rf "$STATE"
	mkdir -p "$STATE"
	KERNEL_LOG=$HOST_OUTPUT/$name-kernel.log
	ARGS=(-name "$name" -nodefaults -display none -no-reboot -no-user-config
		-M q35,kernel-irqchip=split,sata=off,smbus=off,vmport=off,hpet=off
		-accel tcg,thread=multi,tb-size=1024 -cpu EPYC,+svm,+npt
		-smp "$HOST_CPUS" -m "$HOST_MEM"
		-device intel-iommu,intremap=on,caching-mode=on,device-iotlb=on
		-kernel "$BUILD/kernel-generic/vmlinux" -initrd "$BUILD/l1.cpio"
		-serial "file:$KERNEL_LOG"
		-fsdev "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
		-device "virtio-9p-pci,fsdev=root,mount_tag=root,addr=$(hex "$own")"
		-fsdev "local,id=output,path=$HOST_OUTPUT,security_model=none"
		-device "virtio-9p-pci,fsdev=output,mount_tag=output,addr=$(hex $((own + 1)))"
		-device "virtio-serial-pci,addr=$(hex $((own + 2)))")
	vf_devices
	write_environment
	printf '%q ' "$@" >"$STATE/command"
	local append=("${KERNEL_ARGS[@]}" "tsc_early_khz=$("$BUILD/tsc-khz")" "testbed.name=$name" "testbed.output=$HOST_OUTPUT"
		"testbed.start=$TESTBED_DIR/l1/start" "testbed.vfs=$(IFS=,; echo "${VF_ADDRESSES[*]}")"
		"testbed.nic=$(printf '0000:00:%02x.0' $((own + 3)))"
		"testbed.modules=$(realpath "$BUILD/kernel-generic/lib/modules"/*)")
	ARGS+=(-append "${append[*]}")
	if [ -n "${TTY-}" ]; then
		echo "export TESTBED_TTY='$TTY' TESTBED_SIZE='$(stty size)' TERM='${TERM-}'" >>"$STATE/env"
		ARGS+=(-chardev stdio,id=tty,signal=off -device virtconsole,chardev=tty)
		launch "${ARGS[@]}" <&0
	else
		exec {out}> >(exec cat)
		HOST_READERS=($!)
		exec {err}> >(exec cat >&2)
		HOST_READERS+=($!)
		ARGS+=(-add-fd "fd=$out,set=1" -chardev file,id=out,path=/dev/fdset/1,append=on -device virtserialport,nr=1,chardev=out
			-add-fd "fd=$err,set=2" -chardev file,id=err,path=/dev/fdset/2,append=on -device virtserialport,nr=2,chardev=err)
		launch "${ARGS[@]}" </dev/null
		exec {out}>&- {err}>&-
	fi
}

# launch ARG...: QEMU in the background, under a time limit; it ends when this script does.
launch() {
	setpriv --pdeathsig TERM timeout --foreground -k 3 "$HOST_TIMEOUT" \
		setpriv --pdeathsig KILL qemu-system-x86_64 "$@" 2>"$STATE/qemu.log" <&0 &
	HOST_PID=$!
}

# host_up: waits until the host has its command or has ended; false if neither within BOOT_LIMIT s.
host_up() {
	local end=$((SECONDS + BOOT_LIMIT))
	while kill -0 "$HOST_PID" 2>/dev/null && [ ! -e "$STATE/up" ]; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}

host_stop() {
	kill "$HOST_PID" 2>/dev/null || true
	wait "$HOST_PID" 2>/dev/null || true
	HOST_PID=
}

# host_wait NAME: waits for the host to end; returns the status of its command.
host_wait() {
	local status=0
	wait "$HOST_PID" || status=$?
	HOST_PID=
	[ ${#HOST_READERS[@]} = 0 ] || wait "${HOST_READERS[@]}" || true
	grep -vE "TCG doesn't support requested feature|hub 0 is not connected|terminating on signal" \
		"$STATE/qemu.log" >&2 || true
	if [ -s "$STATE/status" ]; then
		return "$(cat "$STATE/status")"
	elif [ "$status" = 124 ] || [ "$status" = 137 ]; then
		say "$1: no end after $HOST_TIMEOUT s"
		return 124
	elif [ ! -s "$KERNEL_LOG" ]; then
		say "$1: QEMU ended with status $status"
		return 126
	fi
	say "$1: the host died; last lines of its kernel log:"
	tail -n 30 "$KERNEL_LOG" | tr -d '\r' >&2
	return 125
}

# host_cleanup: for the exit trap: ends what still runs and removes what was only for this run.
host_cleanup() {
	local status=$?
	trap '' INT TERM
	[ -z "$HOST_PID" ] || host_stop
	[ -z "${TTY-}" ] || stty "$TTY"
	[ -z "${STATE-}" ] || rm -rf "$STATE"
	if [ -n "${TEMPORARY_OUTPUT-}" ]; then
		case $status in
		124 | 125 | 126) say "the logs stay in $HOST_OUTPUT" ;;
		*) rm -rf "$HOST_OUTPUT" ;;
		esac
	fi
}

# host_main NAME COMMAND...: one host from start to end; its status is this script's.
host_main() {
	check_tools
	prepare
	trap host_cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	host_start "$@"
	# An emulated host hangs now and then while it boots; its command has not begun then.
	host_up || {
		say "$1: the host did not come up in $BOOT_LIMIT s; starting it again"
		host_stop
		host_start "$@"
	}
	host_wait "$1"
}

# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# The console's other ends, and what a signal does to a guest.

case_console_input() {
	boot "input" --expect "ready for input" --input 'hello\n' --expect "input was HELLO" --timeout 100
	wants_status 0
}

case_console_timeout() {
	boot "idle" --expect "no such text" --timeout 2
	wants_status 124
}

case_console_ends_early() {
	boot "cpus:1" --expect "no such text"
	wants_status 1
}

case_console_file() {
	boot "cpus:1" -o "console=file:$PWD/out.txt"
	CONSOLE=out.txt
	passes cpus
}

# Both directions through one connection.
case_console_socket() {
	start "input" -o "console=unix:$PWD/console.sock"
	for _ in {1..300}; do
		[ ! -S console.sock ] || break
		sleep 0.1
	done
	[ -S console.sock ] || fail "no socket"
	mkfifo keys
	socat -t 100 - UNIX-CONNECT:console.sock,retry=50,interval=0.1 <keys >"$CONSOLE" 2>socat.txt &
	exec 5>keys
	await "ready for input"
	echo "hello" >&5
	await "input was HELLO"
	exec 5>&-
	finish
	passes input
}

# The virtio console, and nothing else: the serial port is then connected to nothing.
case_console_hvc() {
	CMDLINE="console=hvc0 panic=-1 quiet"
	boot "input cpus:1" -o consoles.+.chardev=stdio \
		--expect "ready for input" --input 'hello\n' --expect "input was HELLO" --timeout 100
	wants_status 0
	wants "unvmm-guest: agent input"
}

case_console_hvc_generic() {
	KERNEL=$TESTBED_KERNEL_GENERIC INITRD=$TESTBED_INITRD_GENERIC
	CMDLINE="console=hvc0 panic=-1 quiet"
	boot "input" -o memory=256M -o consoles.+.chardev=stdio --expect "ready for input" \
		--input 'hello\n' --expect "input was HELLO" --timeout 200
	wants_status 0
}

# More than any buffer holds comes through whole, and the guest's end loses nothing of it.
case_console_hvc_much() {
	CMDLINE="console=hvc0 panic=-1 quiet"
	boot "count:20000" -o consoles.+.chardev=stdio
	passes count
	tr -d '\r' <"$CONSOLE" | grep -x 'line [0-9]*' >lines.txt
	seq -f 'line %.0f' 20000 | cmp - lines.txt || fail "lines are missing or out of order"
}

# A pty, a reader that comes late, goes and comes back; and the link that leads to it.
case_console_pty() {
	CMDLINE="console=hvc0 panic=-1 quiet"
	start "input:2" -o "consoles.+.chardev=pty:$PWD/tty"
	for _ in {1..300}; do
		[ ! -L tty ] || break
		sleep 0.1
	done
	[ -c tty ] || fail "no pty"
	wants_message 'console "pty:.*/tty" is /dev/pts/[0-9]+'
	mkfifo keys
	socat -t 100 - "OPEN:$PWD/tty,noctty" <keys >out1.txt 2>socat.txt &
	READER=$!
	exec 5>keys
	CONSOLE=out1.txt
	await "ready for input"
	echo "hello" >&5
	await "input was HELLO"
	kill "$READER"
	exec 5>&-
	sleep 0.5
	socat -t 100 - "OPEN:$PWD/tty,noctty" <keys >out2.txt 2>>socat.txt &
	exec 5>keys
	echo "again" >&5
	CONSOLE=out2.txt
	await "input was AGAIN"
	finish
	wants_status 0
	[ ! -L tty ] || fail "the link is still there"
}

# A port with a name, as a guest agent has it, beside the serial console.
case_console_port() {
	start "port:org.unvmm.test" -o "consoles.+.chardev=unix:$PWD/port.sock" \
		-o consoles.0.name=org.unvmm.test
	for _ in {1..300}; do
		[ ! -S port.sock ] || break
		sleep 0.1
	done
	socat -t 100 - UNIX-CONNECT:port.sock,retry=50,interval=0.1 <<<"hello" >port.txt 2>socat.txt &
	finish
	passes port
	grep -q "ready on org.unvmm.test" port.txt || fail "nothing came through the port"
	grep -q "port got HELLO" port.txt || fail "no answer came through the port"
}

# The console's reader stops for good, and the guest goes on without it.
case_console_reader_stops() {
	mkfifo stopped
	sleep 1000 <stopped &
	READER=$!
	"$UNVMM" run -k "$KERNEL" -i "$INITRD" -a "$(command_line count:15000)" -o on_reboot=exit \
		</dev/null >stopped 2>"$MESSAGES" &
	GUEST=$!
	finish
	kill "$READER"
	wants_status 0
	wants_message "bytes of output to console \"stdio\" were lost"
}

case_sigterm_presses_the_button() {
	start "button"
	await "ready for the button"
	kill -TERM "$GUEST"
	finish
	wants "button pressed"
	passes button
}

case_sigterm_ignored() {
	start "idle" --shutdown-timeout 3
	await "unvmm-guest: idle"
	SECONDS=0
	kill -TERM "$GUEST"
	finish
	wants_message "did not power off within 3 s"
	wants_status 1
	[ "$SECONDS" -le 25 ] || fail "it took $SECONDS s"
}

case_sigint_ends_at_once() {
	start "idle"
	await "unvmm-guest: userspace"
	kill -INT "$GUEST"
	finish
	wants_status 130
}

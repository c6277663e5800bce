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
	for _ in {1..100}; do
		[ ! -S console.sock ] || break
		sleep 0.1
	done
	[ -S console.sock ] || fail "no socket"
	mkfifo keys
	socat -t 100 - UNIX-CONNECT:console.sock <keys >"$CONSOLE" 2>socat.txt &
	exec 5>keys
	await "ready for input"
	echo "hello" >&5
	await "input was HELLO"
	exec 5>&-
	finish
	passes input
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
	[ "$SECONDS" -le 10 ] || fail "it took $SECONDS s"
}

case_sigint_ends_at_once() {
	start "idle"
	await "unvmm-guest: userspace"
	kill -INT "$GUEST"
	finish
	wants_status 130
}

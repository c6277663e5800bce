#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every header compiles alone, with both compilers, and says what it is in its first lines.
set -uo pipefail
shopt -s nullglob
cd "$(dirname "$0")/.."

# check HEADER: prints what is wrong with it.
check() {
	local cc flags=(-std=gnu11 -D_GNU_SOURCE -Iinclude -Ibuild/gen -Wall -Wextra -Werror -fsyntax-only -x c)
	local first said
	for cc in gcc clang; do
		said=$(printf '#include "%s"\n' "$PWD/$1" | $cc "${flags[@]}" - 2>&1) ||
			echo "not ok header $1 - $cc: $(head -1 <<<"$said")"
	done
	mapfile -t -n 3 first <"$1"
	if [[ ${first[0]-} != *'SPDX-License-Identifier: Apache-2.0'* ||
		"${first[1]-} ${first[2]-}" != *"${1##*/} - "* ]]; then
		echo "not ok header $1 - does not begin with its licence and what it is"
	fi
}
export -f check

wrong=$(printf '%s\n' include/unvmm/*.h vmm/*.h devices/*.h devices/unvf/*.h migrate/*.h \
	migrate/tls/*.h |
	xargs -P "$(nproc)" -I '{}' bash -c 'check {}')
echo "${wrong:-ok headers}"
[[ ! $wrong ]]

#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Every header compiles alone, with both compilers, and says what it is in its first lines.
set -uo pipefail
cd "$(dirname "$0")/.."
flags=(-std=gnu11 -D_GNU_SOURCE -Iinclude -Ibuild/gen -Wall -Wextra -Werror -fsyntax-only -x c)
failed=0

for h in include/unvmm/*.h vmm/*.h devices/*.h devices/unvf/*.h migrate/*.h; do
	[[ -e $h ]] || continue
	for cc in gcc clang; do
		printf '#include "%s"\n' "$PWD/$h" | $cc "${flags[@]}" - 2>build/header.err || {
			echo "not ok header $h - $cc: $(head -1 build/header.err)"
			failed=1
		}
	done
	if ! sed -n 1p "$h" | grep -q 'SPDX-License-Identifier: Apache-2.0' ||
	   ! sed -n 2,3p "$h" | grep -q "${h##*/} - "; then
		echo "not ok header $h - does not begin with its licence and what it is"
		failed=1
	fi
done
((failed)) || echo "ok headers"
exit $failed

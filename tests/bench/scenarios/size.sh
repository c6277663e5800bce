# shellcheck shell=bash source-path=SCRIPTDIR
# size - bytes of the stripped program.
. "$(dirname "$0")/../lib.sh"

command=(strip -o "$BENCH_OUT/unvmm.stripped" "$UNVMM")
"${command[@]}"
record figure size KiB "stripped binary"
record command size unvmm "$(quoted "${command[@]}") && stat -c %s $(quoted "$BENCH_OUT/unvmm.stripped")"
record sample size unvmm 1 "$(awk -v b="$(stat -c %s "$BENCH_OUT/unvmm.stripped")" 'BEGIN {print b / 1024}')"
record note size "liburing is linked statically; the other libraries are shared: $(
	readelf -d "$UNVMM" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | paste -sd ' ')"

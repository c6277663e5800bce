# SPDX-License-Identifier: Apache-2.0
# `make bench`, `make bench-quick`, `make demo`. Included by the top Makefile, after guests.mk.

.PHONY: bench bench-quick bench-vf bench-migrate demo

BENCH_TOOLS := $(B)/bench/time_to $(B)/bench/io_watch $(B)/bench/idle.elf $(B)/bench/relay_cost

bench: all $(BENCH_TOOLS)
	tests/bench/run

bench-quick: all $(BENCH_TOOLS)
	tests/bench/run --quick

bench-vf: all $(BENCH_TOOLS)
	tests/bench/run unvf vf vfnet

bench-migrate: all $(BENCH_TOOLS)
	tests/bench/run relay migrate

demo: all
	tests/demo

# Static: they run in the testbed too, where loading libraries costs emulated time.
$(B)/bench/time_to $(B)/bench/io_watch: $(B)/bench/%: tests/bench/%.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu11 $(CFLAGS) $(WARN) -static -o $@ $<

$(B)/bench/idle.elf: tests/bench/idle.S guests/lib/pvh.h guests/lib/link.ld
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -MMD -MF $(@D)/idle.d -Iguests/lib $(GUEST_LDFLAGS) -Wl,-s,-n -o $@ $<

# What the ring relay costs per request: in cycles, and in instructions.
.PHONY: bench-relay
bench-relay: $(B)/bench/relay_cost
	tests/bench/run relay

$(B)/bench/relay_cost: tests/bench/relay_cost.c $(B)/libunvmm.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Idevices $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< $(B)/libunvmm.a $(LIBS)

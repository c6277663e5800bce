# SPDX-License-Identifier: Apache-2.0
# `make bench`, `make bench-quick`, `make demo`. Included by the top Makefile, after guests.mk.

.PHONY: bench bench-quick bench-vf demo

BENCH_TOOLS := $(B)/bench/time_to $(B)/bench/idle.elf

bench: all $(BENCH_TOOLS)
	tests/bench/run

bench-quick: all $(BENCH_TOOLS)
	tests/bench/run --quick

bench-vf: all
	tests/bench/run unvf vf

demo: all
	tests/demo

# Static: it runs in the testbed too, where loading libraries costs emulated time.
$(B)/bench/time_to: tests/bench/time_to.c
	@mkdir -p $(@D)
	$(CC) -D_GNU_SOURCE -std=gnu11 $(CFLAGS) $(WARN) -static -o $@ $<

$(B)/bench/idle.elf: tests/bench/idle.S guests/lib/pvh.h guests/lib/link.ld
	@mkdir -p $(@D)
	$(CC) $(GUEST_CFLAGS) -MMD -MF $(@D)/idle.d -Iguests/lib $(GUEST_LDFLAGS) -Wl,-s,-n -o $@ $<

# What the ring relay costs per request: in nanoseconds, and in instructions.
.PHONY: bench-relay
bench-relay: $(B)/bench/relay_cost
	tests/bench/relay-cost $<
$(B)/bench/relay_cost: tests/bench/relay_cost.c $(B)/libunvmm.a
	@mkdir -p $(@D)
	$(CC) $(CPPFLAGS) -Idevices $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# SPDX-License-Identifier: Apache-2.0
# unvmm: builds into build/, tests it, measures it. `make help` lists the targets.
#
#   make [CC=clang] [SAN=address|thread] [FUZZER=1] [PLANT=1]
#
# FUZZER=1 (with CC=clang) builds the fuzz targets on libFuzzer; PLANT=1 compiles the planted bugs
# in that they must find. Each variant lives in a folder of its own below build/.

CC	?= gcc
ifeq ($(origin CC),default)
CC	:= gcc
endif
SAN	?=
B	:= build$(if $(SAN),/$(SAN))$(if $(FUZZER),/fuzzer)$(if $(PLANT),/plant)$(if \
	$(filter clang%,$(notdir $(CC))),/clang)
PREFIX	?= /usr/local
DESTDIR	?=
VERSION	:= 0.1

WARN	:= -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wformat=2
HARDEN	:= -fstack-protector-strong -fPIE $(if $(SAN),,-D_FORTIFY_SOURCE=2)
CPPFLAGS += -D_GNU_SOURCE -Iinclude -I$(B)/gen -DUNVMM_VERSION='"$(VERSION)"' \
	$(if $(PLANT),-DFUZZ_PLANT)
CFLAGS	?= -O2 -g
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) $(HARDEN) $(SANFLAGS) -MMD -MP
LDFLAGS	+= -pie -Wl,-z,relro,-z,now -Wl,--as-needed
# liburing statically: Debian 12's shared one does not export the calls that restrict a ring.
# json-c statically: as a shared library it makes every start of a guest 0.5 ms longer.
LIBS	:= -lfdt -l:liburing.a -l:libjson-c.a -lconfig -lpthread
ifeq ($(SAN),address)
SANFLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined \
	-fno-omit-frame-pointer $(if $(FUZZER),-fsanitize=fuzzer-no-link)
else ifeq ($(SAN),thread)
SANFLAGS := -fsanitize=thread
endif

# Where the tests get between KVM and those who call it (tests/lib/fake_kvm.c).
WRAP	:= -Wl,--wrap=kvm_set_slot,--wrap=kvm_ioeventfd,--wrap=kvm_get_irqchip,--wrap=kvm_vcpu_get_tsc_khz

# One short line per command; V=1 shows the commands.
Q	:= $(if $(V),,@)
say	= $(if $(V),,@printf '  %-5s %s\n' $(1) $@)

# main.c and cmd_*.c are the program; everything else is the library that the tests link too.
MAIN_SRC := $(wildcard vmm/main.c vmm/cmd_*.c)
LIB_SRC	:= $(filter-out $(MAIN_SRC),$(wildcard vmm/*.c devices/*.c migrate/*.c))
LIB_OBJ	:= $(LIB_SRC:%.c=$(B)/%.o)
MAIN_OBJ := $(MAIN_SRC:%.c=$(B)/%.o)
UNIT_SRC := $(wildcard tests/unit/test_*.c)
UNIT	:= $(UNIT_SRC:tests/unit/%.c=$(B)/tests/%)
TESTLIB_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard tests/lib/*.c))
FUZZ_SRC := $(wildcard tests/fuzz/fuzz_*.c)
FUZZ	:= $(FUZZ_SRC:tests/fuzz/%.c=$(B)/fuzz/%)

.PHONY: all
all: $(B)/unvmm $(B)/unvf $(B)/unvmm-tls guests $(B)/vf-io $(B)/move-guest

.PHONY: help
help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

$(B)/unvmm: $(MAIN_OBJ) $(B)/libunvmm.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

$(B)/libunvmm.a: $(LIB_OBJ)
	$(call say,AR)
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $^

# unvf is a second transport and queue runner for the devices: its archive goes before libunvmm.a,
# whose virtio_pci.c and softq.c the linker then does not need.
UNVF_OBJ := $(patsubst %.c,$(B)/%.o,$(filter-out devices/unvf/main.c,$(wildcard devices/unvf/*.c)))
$(B)/libunvf.a: $(UNVF_OBJ)
	$(call say,AR)
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $^

$(B)/unvf: $(B)/devices/unvf/main.o $(B)/libunvf.a $(B)/libunvmm.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# The helper that encrypts a migration, which alone has GnuTLS in it.
TLS_OBJ	:= $(patsubst %.c,$(B)/%.o,$(filter-out migrate/tls/main.c,$(wildcard migrate/tls/*.c)))
TLS_LIBS := -lgnutls -l:liburing.a
$(B)/unvmm-tls: $(B)/migrate/tls/main.o $(TLS_OBJ) $(B)/libunvmm.a
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(TLS_LIBS)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -c -o $@ $<

# The guest's DSDT: ASL with platform.h's numbers, compiled to a C array by iasl.
$(B)/devices/acpi.o: $(B)/gen/dsdt.h
$(B)/gen/dsdt.h: devices/dsdt.asl include/unvmm/platform.h
	@mkdir -p $(@D)
	$(call say,IASL)
	$(Q)$(CC) -E -P -x assembler-with-cpp -Iinclude $< -o $(B)/gen/dsdt.i.asl
	$(Q)iasl -vs -we -tc -p $(B)/gen/dsdt $(B)/gen/dsdt.i.asl > $(B)/gen/iasl.log 2>&1 || \
		{ cat $(B)/gen/iasl.log; false; }
	$(Q)sed 's/^unsigned char dsdt_aml_code/static const &/' $(B)/gen/dsdt.hex > $@

# The names of the system calls, for the sentence about a forbidden one: the kernel header's.
$(B)/vmm/sandbox.o: $(B)/gen/syscalls.h
$(B)/gen/syscalls.h:
	@mkdir -p $(@D)
	$(call say,GEN)
	$(Q)echo '#include <asm/unistd_64.h>' | $(CC) -E -dM - | \
		sed -n 's/^#define __NR_\([a-z0-9_]*\) \([0-9]*\)$$/[\2] = "\1",/p' > $@

# The registry decides which classes exist.
$(B)/devices/registry.o: devices/registry.def

-include guests/guests.mk

# --- tests -----------------------------------------------------------------------------------
# Their own code is compiled more often than it runs: no time is spent on optimizing it.
TEST_CFLAGS = $(filter-out -O% -D_FORTIFY_SOURCE=%,$(ALL_CFLAGS))

$(B)/tests/%: tests/unit/%.c $(TESTLIB_OBJ) $(B)/libunvmm.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(CPPFLAGS) -Itests/lib -Ivmm -Idevices -Imigrate $(TEST_CFLAGS) $(LDFLAGS) $(WRAP) -o $@ $< \
		$(TESTLIB_OBJ) $(B)/libunvmm.a -lcmocka $(LIBS)
# unvf's tests link its archive first, and of the shared test code only what stands in for nothing.
UNVF_TESTLIB := $(B)/tests/lib/vq_driver.o $(B)/tests/lib/unvf_client.o \
	$(B)/tests/lib/state_check.o $(B)/tests/lib/state_equal.o
$(B)/tests/test_unvf%: tests/unit/test_unvf%.c $(UNVF_TESTLIB) $(B)/libunvf.a $(B)/libunvmm.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(CPPFLAGS) -Itests/lib -Idevices/unvf $(TEST_CFLAGS) $(LDFLAGS) -o $@ $< \
		$(UNVF_TESTLIB) $(B)/libunvf.a $(B)/libunvmm.a -lcmocka $(LIBS)
$(B)/tests/test_tls%: tests/unit/test_tls%.c $(TLS_OBJ) $(B)/libunvmm.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(CPPFLAGS) -Imigrate/tls $(TEST_CFLAGS) $(LDFLAGS) -o $@ $< \
		$(TLS_OBJ) $(B)/libunvmm.a -lcmocka $(TLS_LIBS)
$(B)/tests/lib/%.o: CPPFLAGS += -Itests/lib -Ivmm -Idevices -Imigrate
.SECONDARY: $(LIB_OBJ) $(TESTLIB_OBJ) $(TLS_OBJ)

.PHONY: unit
unit: $(UNIT)

# What the testbed runs on assigned functions without a guest.
$(B)/vf-io: tests/testbed/vf-io.c $(B)/libunvmm.a
	$(call say,LD)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# What the testbed moves from machine to machine, without a stream.
$(B)/move-guest: tests/testbed/move-guest.c $(B)/libunvmm.a
	$(call say,LD)
	$(Q)$(CC) $(CPPFLAGS) -Ivmm $(ALL_CFLAGS) $(LDFLAGS) -o $@ $^ $(LIBS)

# A fuzz target with a main that replays files, or on libFuzzer.
$(B)/fuzz/fuzz_%: tests/fuzz/fuzz_%.c tests/fuzz/replay.c $(TESTLIB_OBJ) $(B)/libunvmm.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(CPPFLAGS) -Itests/lib -Ivmm -Idevices -Imigrate $(ALL_CFLAGS) $(LDFLAGS) $(WRAP) -o $@ $< \
		$(if $(FUZZER),-fsanitize=fuzzer,tests/fuzz/replay.c) $(TESTLIB_OBJ) \
		$(B)/libunvmm.a -lcmocka $(LIBS)

$(B)/fuzz/fuzz_unvf: tests/fuzz/fuzz_unvf.c tests/fuzz/replay.c $(B)/libunvf.a $(B)/libunvmm.a
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(CPPFLAGS) -Idevices/unvf $(ALL_CFLAGS) $(LDFLAGS) -o $@ $< \
		$(if $(FUZZER),-fsanitize=fuzzer,tests/fuzz/replay.c) \
		$(B)/libunvf.a $(B)/libunvmm.a $(LIBS)

.PHONY: fuzz-targets
fuzz-targets: $(FUZZ)

.PHONY: check-quick check check-full
check-quick check check-full:
	tests/check $(@:check-%=%)

# As many as it takes for what happens rarely.
.PHONY: soak
soak: all
	MOVES=1000 tests/boot/vf-migrate '*-ping-pong'

FUZZ_SECONDS ?= 30
.PHONY: fuzz
fuzz:
	tests/fuzz/run $(FUZZ_SECONDS)

.PHONY: format-check format
format-check:
	tests/check-format
format:
	clang-format -i $(shell git ls-files '*.c' '*.h')

.PHONY: deps
deps:
	./bootstrap deps

-include tests/bench/bench.mk

## make               build unvmm and the micro-guests
## make check-quick   build, format, layers, headers, manuals, units, golden files, terminal (two minutes)
## make check         all of it and the testbed (twenty minutes)
## make check-full    check, with both compilers and the sanitizers
## make demo          a Debian guest boots, verifies its disk, powers off
## make bench         the figures of README and issues, with the commands that made them
## make soak          a guest is moved 1,000 times under I/O on assigned functions (SEED=N: again)
## make fuzz          run every fuzz target for FUZZ_SECONDS (30)
## make format-check  clang-format without changes
## make deps          install the Debian packages that all of this needs
## make install       to $(DESTDIR)$(PREFIX)

.PHONY: install
install: $(B)/unvmm $(B)/unvf $(B)/unvmm-tls
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/unvmm \
		$(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man5 \
		$(DESTDIR)$(PREFIX)/share/man/man8 \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 755 -s $(B)/unvmm $(DESTDIR)$(PREFIX)/bin/unvmm
	install -m 755 -s $(B)/unvf $(DESTDIR)$(PREFIX)/bin/unvf
	install -m 644 vmm/unvmm.1 devices/unvf/unvf.1 $(DESTDIR)$(PREFIX)/share/man/man1/
	install -m 755 -s $(B)/unvmm-tls $(DESTDIR)$(PREFIX)/libexec/unvmm/unvmm-tls
	install -m 644 migrate/tls/unvmm-tls.8 $(DESTDIR)$(PREFIX)/share/man/man8/
	install -m 644 vmm/unvmm.cfg.5 $(DESTDIR)$(PREFIX)/share/man/man5/
	install -m 644 vmm/unvmm.bash-completion \
		$(DESTDIR)$(PREFIX)/share/bash-completion/completions/unvmm

.PHONY: clean
clean:
	rm -rf build

-include $(shell find $(B) -name '*.d' 2>/dev/null)

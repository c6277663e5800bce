# SPDX-License-Identifier: Apache-2.0
# Micro-guests: build/guests/NAME.elf, freestanding, with a PVH and a 64-bit entry; NAME-64.elf is
# the same without the PVH note, so that the 64-bit entry is taken. Included by the top Makefile.

GUEST_NAMES := hello memory blk virtio smp echo net button doorbell vf migrate traffic
GUEST_64 := hello memory blk
G := $(B)/guests

GUEST_LIB_OBJ := $(patsubst guests/lib/%,$(G)/lib/%.o,$(basename \
	$(filter-out guests/lib/start.S,$(wildcard guests/lib/*.c guests/lib/*.S))))
GUEST_OBJ := $(patsubst guests/%,$(G)/%.o,$(basename $(wildcard guests/*.c guests/*.S)))

# What a guest is made of besides its own file.
GUEST_RUNTIME := $(G)/libguest.a
$(G)/virtio.elf: $(G)/virtio_rings.o

# No SSE: nobody saves its state and some hosts do not have it; no red zone: traps use the stack.
# No loop may become a call of memset and the like, for their own loops would call themselves.
GUEST_CFLAGS := -std=gnu11 -O2 -g $(WARN) -D_GNU_SOURCE -Iinclude -ffreestanding -fno-builtin \
	-fno-pic -fno-pie -mcmodel=small -mno-red-zone -mgeneral-regs-only -fno-stack-protector \
	-fno-asynchronous-unwind-tables -fcf-protection=none -MMD -MP
GUEST_LDFLAGS := -static -nostdlib -Wl,-T,guests/lib/link.ld -Wl,--build-id=none \
	-Wl,-z,noexecstack -Wl,-z,max-page-size=4096

.PHONY: guests
guests: $(GUEST_NAMES:%=$(G)/%.elf) $(GUEST_64:%=$(G)/%-64.elf)

$(GUEST_OBJ) $(GUEST_LIB_OBJ) $(G)/lib/start.o $(G)/lib/start-64.o $(G)/hello-64.o: \
	guests/guests.mk

$(filter-out $(G)/hello.o,$(GUEST_OBJ)): $(G)/%.o: guests/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(filter-out $(G)/lib/ap.o,$(GUEST_LIB_OBJ)): $(G)/lib/%.o: guests/lib/%.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(G)/hello.o $(G)/lib/ap.o $(G)/lib/start.o: $(G)/%.o: guests/%.S
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(G)/hello-64.o $(G)/lib/start-64.o: $(G)/%-64.o: guests/%.S
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(GUEST_CFLAGS) -DNO_PVH -c -o $@ $<

$(G)/libguest.a: $(GUEST_LIB_OBJ)
	$(call say,AR)
	$(Q)rm -f $@
	$(Q)$(AR) rcs $@ $^

$(G)/hello.elf $(G)/hello-64.elf: $(G)/%.elf: $(G)/%.o guests/lib/link.ld
	$(call say,LD)
	$(Q)$(CC) $(GUEST_LDFLAGS) -Wl,-s,-n -o $@ $(filter %.o,$^)

$(patsubst %,$(G)/%.elf,$(filter-out hello,$(GUEST_NAMES))): $(G)/%.elf: $(G)/lib/start.o $(G)/%.o \
		$(GUEST_RUNTIME) guests/lib/link.ld
	$(call say,LD)
	$(Q)$(CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o,$^) $(GUEST_RUNTIME)

$(patsubst %,$(G)/%-64.elf,$(filter-out hello,$(GUEST_64))): $(G)/%-64.elf: $(G)/lib/start-64.o \
		$(G)/%.o $(GUEST_RUNTIME) guests/lib/link.ld
	$(call say,LD)
	$(Q)$(CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o,$^) $(GUEST_RUNTIME)

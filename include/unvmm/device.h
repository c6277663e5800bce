/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device.h - what a device is to the machine. A new device is one file in devices/ that defines a
 * struct device_class, and one line in devices/registry.def. devices/README.md walks through
 * virtio_rng.c as the example.
 */
#ifndef UNVMM_DEVICE_H
#define UNVMM_DEVICE_H

#include <unvmm/diag.h>
#include <unvmm/report.h>
#include <unvmm/state.h>

struct track_pause;
struct vm;

/* One key of a device's configuration group, filled into the class's own conf struct. */
enum opt_type {
	OPT_BOOL,    /* bool */
	OPT_INT,     /* int64_t, checked against min and max */
	OPT_SIZE,    /* uint64_t bytes: integer or "512M" (K, M, G, T: powers of 1024) */
	OPT_STRING,  /* char *, owned by the configuration */
	OPT_PATH,    /* char *: a file; relative ones count from the configuration file's folder */
	OPT_CHARDEV, /* char *: "stdio", "none", "file:PATH", "unix:PATH", "pty" ... (chardev.h) */
	OPT_SOCKET,  /* char *: "unix:PATH" or "none" */
	OPT_CHOICE,  /* int: index in `choices` */
};

struct opt {
	const char *name;
	enum opt_type type;
	size_t offset; /* in the conf struct */
	/* OPT_INT, OPT_SIZE: allowed range (equal: any); texts: max is the length, if not 0. */
	int64_t min, max;
	bool required;
	const char *help;	    /* half a line for the manual and error messages */
	const char *const *choices; /* OPT_CHOICE: the words, ended by NULL */
	/*
	 * What a range cannot say, about the value just stored in conf; may be NULL. Its sentence
	 * goes on after the key: "is 100; it must be a power of two".
	 */
	int (*check)(const void *conf, struct diag *d);
};

/* One instance in a running machine. Embedded in the device's own struct or allocated beside it. */
struct device {
	char id[24]; /* "blk0": in messages, `unvmm info`, and as its name in a stream */
	const struct device_class *cls;
	void *priv;
	const struct state_ref *state; /* state tables, in the order of loading */
	unsigned int nstate;
	struct device *next;
};

struct device_class {
	const char *name; /* "virtio-blk" */
	const char *id;	  /* prefix of instance names: "blk" */
	/*
	 * The key of guest.cfg that creates instances: a list of groups (`disks = ({...}, {...})`)
	 * when `list`, else one group or `true`. NULL: part of every machine, created once.
	 */
	const char *key;
	bool list;
	bool by_default;  /* one instance unless the configuration says `key = false` */
	bool pci;	  /* takes one of the PLAT_PCI_DEVICES_MAX slots */
	size_t conf_size; /* bytes of the conf struct; filled with zeroes, then init_conf */
	/* Defaults other than zero; may be NULL. Texts that it sets are copied, so literals do. */
	void (*init_conf)(void *conf);
	const struct opt *opts;
	unsigned int nopts;
	/*
	 * What the values of a group must satisfy together; may be NULL. Its sentence goes on after
	 * the group: "nets.0" ... "has neither tap nor passt; ...".
	 */
	int (*check)(const void *conf, struct diag *d);
	/*
	 * Will another process map guest memory for this instance? Then it must be a memfd. NULL:
	 * no.
	 */
	bool (*needs_shared_memory)(const void *conf);

	/*
	 * Makes an instance: registers its regions, sets dev->priv and dev->state. Called by main
	 * before any vcpu runs. Everything that can be refused is refused here, with a sentence.
	 * On failure it has released what it took; destroy is not called.
	 */
	int (*create)(struct vm *vm, struct device *dev, const void *conf, struct diag *d);
	/*
	 * The rest is called by main while the vcpus are parked, without the control lock.
	 * reset: back to the power-on state. An error ends the machine.
	 */
	int (*reset)(struct device *dev, struct diag *d);
	/*
	 * Asks the device to finish what is under way and touch guest memory no more; it keeps its
	 * state and goes on after resume(). NULL for devices that only act when a vcpu traps.
	 * quiesce() may wait, up to a deadline: -ETIMEDOUT.
	 */
	int (*quiesce)(struct device *dev);
	void (*resume)(struct device *dev);
	/*
	 * Makes durable what the guest was told is written. Any thread but a vcpu's, running or
	 * quiesced; waits for the disk. NULL: it keeps nothing.
	 */
	int (*sync)(struct device *dev);
	/*
	 * Takes or gives up what only one host may have at a time, such as the lock of a disk's
	 * image. Taken by create(), unless the guest is yet to come (vm_config.incoming); taking
	 * what it has does nothing. Quiesced; main or the migration's thread. -EBUSY: another has
	 * it. NULL: there is no such thing.
	 */
	int (*claim)(struct device *dev, bool take, struct diag *d);
	/*
	 * For a migration, of devices that write to guest memory behind unvmm's back. NULL:
	 * whatever the device writes it marks by itself (gmem.h).
	 *
	 * track_begin, main, vcpus running: from now on every write has to show in gmem's log of
	 * host writes. 0: it does. 1: it will after a quiesce() and resume(), which must come at
	 * once. -errno with a sentence that names the device: it cannot be moved; nothing changed.
	 * track_wait, main, after that: 0 as soon as it is so; only then the first round of RAM
	 * starts. From here on quiesce() stops the device for good: where its queues are is in the
	 * journal, and any device of the kind can go on there.
	 * track_sync, any thread without the control lock: what the device logs by itself is put
	 * into gmem's log; to be called before each gmem_log_fetch().
	 * track_end, main: it is over, whatever became of it. Not after a failed track_begin.
	 */
	int (*track_begin)(struct device *dev, struct diag *d);
	int (*track_wait)(struct device *dev, struct diag *d);
	int (*track_sync)(struct device *dev, struct diag *d);
	void (*track_end)(struct device *dev);
	/* Adds the parts of its last stop, and of the start after that. Main. */
	void (*track_pause)(const struct device *dev, struct track_pause *p);
	/*
	 * Of a device whose guest is still to come, or has just come and does not run yet; main,
	 * without the control lock. Errors have a sentence, and then the guest goes on where it
	 * was. prepare, while memory comes: all that takes time and needs no state. arm, when the
	 * state is loaded: all that can fail, up to where resume() only has to let go. Nothing of
	 * it shows outside of this machine, and reset() or destroy() undo it. NULL: there is no
	 * such thing.
	 */
	int (*prepare)(struct device *dev, struct diag *d);
	int (*arm)(struct device *dev, struct diag *d);
	/*
	 * State that only another device of the same model understands: bytes beside the tables,
	 * never instead of them, so that whoever cannot use them goes on by the tables. NULL: there
	 * is none.
	 * opaque_get, any thread, quiesced after a track_wait: len 0: none. They stay until
	 * resume().
	 * opaque_put, main, without the control lock, quiesced, the tables having been loaded: what
	 * came for this device, from a peer or a file. It uses them or does not.
	 */
	void (*opaque_get)(struct device *dev, const void **data, size_t *len);
	void (*opaque_put)(struct device *dev, const void *data, size_t len);
	/*
	 * The guest has just come from another host and runs: interrupts are repeated, because one
	 * may have been lost on the way, and a network card announces its new place. Main, control
	 * lock held. NULL: nothing to tell.
	 */
	void (*moved)(struct device *dev);
	/*
	 * The guest has been restored from a file: its original may go on, and more copies may
	 * come. Before its first instruction here; main, control lock held. NULL: all the same.
	 */
	void (*cloned)(struct device *dev);
	/*
	 * For `unvmm info` and `unvmm stats`, into a group that is open: what this instance is, and
	 * its counters. Control lock held; the vcpus and the io thread run. NULL: nothing to tell.
	 */
	void (*info)(const struct device *dev, struct report *r);
	void (*stats)(const struct device *dev, struct report *r);
	/*
	 * Releases everything. The io thread still runs; no vcpu does. NULL for nothing to release.
	 */
	void (*destroy)(struct device *dev);
};

/* devices/registry.c: every class, in the order of registry.def. */
extern const struct device_class *const device_classes[];
extern const unsigned int device_class_count;

#endif

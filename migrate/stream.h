/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stream.h - sections over a descriptor: a header of 16 bytes {type, flags, length, number, crc32c}
 * and a payload, in both directions; every wait has a deadline. (migrate/FORMAT.md, section 1)
 *
 * What is read comes from a peer or a file and is hostile: a length is compared with what its type
 * may have before a byte of the payload is read, and memory is bounded by STREAM_PAYLOAD_MAX.
 *
 * Thread: one, the engine's.
 */
#ifndef UNVMM_MIGRATE_STREAM_H
#define UNVMM_MIGRATE_STREAM_H

#include <unvmm/diag.h>

#define STREAM_HEADER	   16u
#define STREAM_PAYLOAD_MAX (MiB(1) + 4096u)

struct section {
	uint16_t type;
	uint32_t len;
	const uint8_t *payload; /* valid until the next stream_recv(); aligned as by malloc() */
	uint32_t got;		/* bytes of it: fewer than len only as heads_only says */
	uint64_t at;		/* then: where the header is in the file, */
	uint32_t crc;		/* and what the checksum must be */
};

struct stream {
	int fd;			 /* the caller's */
	bool file;		 /* not a socket or pipe: it has an end, and never makes us wait */
	uint64_t sent, received; /* bytes */
	bool broken;		 /* a section was sent in part: nothing can follow it */
	uint32_t silence_ms;	 /* without a byte from, or taken by, the peer: it is dead */
	/* Longest payload of a type; 0: there is no such type here. */
	uint32_t (*cap)(uint16_t type);
	/*
	 * Called at least every tick_ms while it waits, and at once when wake_fd is readable. An
	 * error ends the wait and is returned.
	 */
	int (*tick)(void *arg, struct diag *d);
	void *arg;
	uint32_t tick_ms;
	int wake_fd;	  /* -1: none */
	const char *peer; /* in sentences: "the target" */
	/*
	 * Of a payload of this type the CRC is for the first head_len bytes; what is behind them
	 * has a sum of its own, which is the caller's to look at. 0: there is no such type.
	 */
	uint16_t head_type;
	uint32_t head_len;
	/* Another section follows at once. They travel together, for each wakes up the peer. */
	bool more;
	bool heads_only; /* a file: the rest of those sections is left where it is */
	/* private */
	bool not_socket;
	uint32_t out_number, in_number;
	uint8_t *out, *in; /* header and payload; owned */
};

/* The fields above `private` may be changed by the caller afterwards. -ENOMEM. */
int stream_init(struct stream *s, int fd, struct diag *d) must_check;
void stream_fini(struct stream *s);

/* Where the payload of the next section can be made: STREAM_PAYLOAD_MAX bytes. */
uint8_t *stream_payload(struct stream *s);
/* Sends it. payload NULL: it is in stream_payload(). Returns when the kernel has all of it. */
int stream_send(struct stream *s, uint16_t type, const void *payload, size_t len,
		struct diag *d) must_check;

/*
 * Reads a section. -ECONNRESET: the peer has closed between two sections; -EPROTO: what came is no
 * section that may come; -ETIMEDOUT: silence.
 */
int stream_recv(struct stream *s, struct section *sec, struct diag *d) must_check;

/* The checksum of a header and len bytes of the payload behind it. */
uint32_t stream_crc(const uint8_t *header, size_t len);

/* Is there something to read, or an end? Does not wait. */
bool stream_readable(const struct stream *s);

/*
 * Waits for ns, or until there is something to read (a file: until wake_fd was readable). tick()
 * runs as in every wait.
 */
int stream_sleep(struct stream *s, uint64_t ns, struct diag *d) must_check;

/* The clock of all deadlines, in nanoseconds. */
uint64_t stream_now(void);

/* Little-endian numbers at any address. */
static inline void put_le16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
}

static inline void put_le32(uint8_t *p, uint32_t v)
{
	put_le16(p, (uint16_t)v);
	put_le16(p + 2, (uint16_t)(v >> 16));
}

static inline void put_le64(uint8_t *p, uint64_t v)
{
	put_le32(p, (uint32_t)v);
	put_le32(p + 4, (uint32_t)(v >> 32));
}

static inline uint16_t get_le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t get_le32(const uint8_t *p)
{
	return get_le16(p) | (uint32_t)get_le16(p + 2) << 16;
}

static inline uint64_t get_le64(const uint8_t *p)
{
	return get_le32(p) | (uint64_t)get_le32(p + 4) << 32;
}

#endif

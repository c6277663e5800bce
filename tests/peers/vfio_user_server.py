#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A vfio-user server for the tests of unvmm's client, written from the protocol's text alone.

It shows a small PCI function that looks like a virtio one: configuration space with MSI-X and the
virtio capabilities, BAR 0 with registers and one doorbell page per queue (a memfd, the doorbells
can be mapped), BAR 2 with the MSI-X table. Its queues are an echo: a doorbell makes the function
read 8 bytes at the queue's descriptor address, write their complement behind them, and signal the
queue's vector. So a test sees doorbells, DMA (by mmap, or by message with --message-dma) and
interrupts without a driver.

--fault MODE breaks the answer to the command --at (from its occurrence --nth on):
  late, never, short, long, wrong-size, wrong-id, wrong-cmd, wrong-type, huge, cut, extra-fds,
  bad-json, no-nul, bad-caps, major, error, flood, disconnect, unasked (an answer to nothing, while idle)

SIGUSR1 raises VFIO's request event, SIGUSR2 its error event.
"""
import argparse
import array
import json
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time

(VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS, REGION_READ,
 REGION_WRITE, DMA_READ, DMA_WRITE, RESET, DIRTY_PAGES, WRITE_MULTI, FEATURE, MIG_READ,
 MIG_WRITE) = range(1, 19)
REPLY, NO_REPLY, ERROR = 1, 1 << 4, 1 << 5
EINVAL, ENOENT, EEXIST, EOPNOTSUPP, EFAULT = 22, 2, 17, 95, 14
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
ERROR_STATE, STOP, RUNNING, STOP_COPY, RESUMING = range(5)

QUEUES, VECTORS, PAGE = 4, 5, 4096
BAR0, NOTIFY = 0x8000, 0x4000
COMMON_STATUS, COMMON_SELECT, COMMON_VECTOR, COMMON_DESC = 0x14, 0x16, 0x1a, 0x20


class Gone(Exception):
    """The client has closed the connection."""


class Refused(Exception):
    """The request is answered with an errno."""

    def __init__(self, errno, body=b""):
        super().__init__(errno)
        self.errno, self.body = errno, body


def config_space():
    c = bytearray(256)
    struct.pack_into("<HHHHBBHBBBB", c, 0, 0x1af4, 0x1041, 0, 0x10, 1, 0, 0x200, 0, 0, 0, 0)
    struct.pack_into("<IIII", c, 0x10, 0x4, 0, 0x4, 0)  # two 64-bit memory BARs
    struct.pack_into("<HH", c, 0x2c, 0x1af4, 0x1041)
    c[0x34] = 0x40
    at = 0x40
    # virtio capabilities: type, offset in BAR 0, length
    for kind, off, length in ((1, 0, 0x38), (2, NOTIFY, QUEUES * PAGE), (3, 0x1000, 1), (4, 0x2000, 12)):
        size = 20 if kind == 2 else 16
        struct.pack_into("<BBBBBBHII", c, at, 9, at + size, size, kind, 0, 0, 0, off, length)
        if kind == 2:
            struct.pack_into("<I", c, at + 16, PAGE)
        at += size
    struct.pack_into("<BBHII", c, at, 0x11, 0, VECTORS - 1, 2, 0x800 | 2)  # MSI-X in BAR 2
    return c


class Function:
    """The registers; what a queue does is up to the server, which has the memory."""

    def __init__(self, pokes):
        self.pokes = pokes
        self.fd = os.memfd_create("bar0")
        os.ftruncate(self.fd, BAR0)
        self.bar0 = mmap.mmap(self.fd, BAR0)
        self.table = bytearray(PAGE)
        self.state = RUNNING
        self.blob, self.at = b"", 0
        self.reset()

    def reset(self):
        self.config = config_space()
        self.bar0[0:NOTIFY] = bytes(NOTIFY)
        self.bar0[0x12:0x14] = struct.pack("<H", QUEUES)
        self.bar0[0x2000:0x2006] = b"\x52\x54\x00\x00\x00\x01"
        self.queues = [{"desc": 0, "vector": 0xffff} for _ in range(QUEUES)]
        self.bar0[0x18:0x1c] = struct.pack("<HH", 256, 0xffff)
        for poke in self.pokes:
            region, off, data = poke.split(":")
            data = bytes.fromhex(data)
            self.region(int(region))[int(off, 16):int(off, 16) + len(data)] = data

    def region(self, index):
        return {0: self.bar0, 2: self.table, 7: self.config}.get(index)

    def size(self, index):
        r = self.region(index)
        return len(r) if r else 0

    def written(self, index, off, data):
        """What a write to the registers means beyond the bytes. Returns the queue that was rung."""
        if index == 7 and off <= 4 < off + len(data):
            self.config[4:6] = struct.pack("<H", struct.unpack_from("<H", self.config, 4)[0] & 0x407)
            struct.pack_into("<H", self.config, 0, 0x1af4)
        elif index == 7:
            self.config[0:4] = struct.pack("<HH", 0x1af4, 0x1041)
        elif index == 0 and off >= NOTIFY and len(data) in (2, 4):
            return (off - NOTIFY) // PAGE
        elif index == 0 and off == COMMON_STATUS and data[:1] == b"\0":
            command = self.config[4:6]
            self.reset()
            self.config[4:6] = command
        elif index == 0:
            q = self.queues[struct.unpack_from("<H", self.bar0, COMMON_SELECT)[0] % QUEUES]
            if off == COMMON_SELECT:
                self.bar0[COMMON_DESC:COMMON_DESC + 8] = struct.pack("<Q", q["desc"])
                self.bar0[COMMON_VECTOR:COMMON_VECTOR + 2] = struct.pack("<H", q["vector"])
            q["desc"] = struct.unpack_from("<Q", self.bar0, COMMON_DESC)[0]
            q["vector"] = struct.unpack_from("<H", self.bar0, COMMON_VECTOR)[0]
        return None


class Server:
    def __init__(self, conn, opts):
        self.c, self.o = conn, opts
        self.f = Function(opts.poke)
        self.maps = {}       # iova -> (size, mmap or None)
        self.vectors = [None] * (VECTORS + 2)  # the last two: error and request events
        for n, event in ((signal.SIGUSR2, VECTORS), (signal.SIGUSR1, VECTORS + 1)):
            signal.signal(n, lambda _n, _frame, event=event: self.fire(event))
        self.dirty, self.logging = set(), False
        self.seen = {}
        self.greeted = False  # VERSION comes first
        self.client_fds, self.client_xfer = 1, 1 << 20
        self.bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(QUEUES)] \
            if opts.io_fds else []
        self.next_id = 0x8000

    # --- bytes ---

    def recv(self, n):
        data, fds = b"", []
        while len(data) < n:
            part, anc, _, _ = self.c.recvmsg(n - len(data), socket.CMSG_SPACE(253 * 4))
            for level, kind, payload in anc:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    a = array.array("i")
                    a.frombytes(payload[:len(payload) // 4 * 4])
                    fds += a
            if not part:
                raise Gone()
            data += part
        return data, fds

    def message(self):
        head, fds = self.recv(16)
        mid, cmd, size, flags, errno = struct.unpack("<HHIII", head)
        if size < 16 or size > 2 << 20:
            raise Gone()
        body, more = self.recv(size - 16)
        return mid, cmd, flags, errno, body, fds + more

    def send(self, mid, cmd, flags, errno, body, fds=()):
        head = struct.pack("<HHIII", mid, cmd, 16 + len(body), flags, errno)
        self.raw(head + body, fds)

    def raw(self, data, fds=()):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = self.c.sendmsg([data], anc)
        self.c.sendall(data[sent:])

    # --- the function's own DMA ---

    def command(self, cmd, body):
        """A command of ours; the client answers before anything else that it sends."""
        self.next_id = self.next_id % 0xffff + 1
        self.send(self.next_id, cmd, 0, 0, body)
        mid, rcmd, flags, errno, reply, fds = self.message()
        for fd in fds:
            os.close(fd)
        if (mid, rcmd, flags & 0xf) != (self.next_id, cmd, REPLY):
            print("server: the client answered a command with something else", file=sys.stderr)
            raise Gone()
        return (errno or EINVAL, reply) if flags & ERROR else (0, reply)

    def find(self, addr, n):
        for iova, (size, m) in self.maps.items():
            if iova <= addr and addr + n <= iova + size:
                return m, addr - iova
        return None, 0

    def dma_read(self, addr, n):
        m, off = self.find(addr, n)
        if m is not None and not self.o.message_dma:
            return m[off:off + n]
        err, reply = self.command(DMA_READ, struct.pack("<QQ", addr, n))
        return None if err else reply[16:16 + n]

    def dma_write(self, addr, data):
        if self.logging:
            self.dirty.add(addr // PAGE)
        m, off = self.find(addr, len(data))
        if m is not None and not self.o.message_dma:
            m[off:off + len(data)] = data
            return
        self.command(DMA_WRITE, struct.pack("<QQ", addr, len(data)) + data)

    def ring(self, q):
        """A doorbell: the echo, then the interrupt."""
        if q >= QUEUES or not self.f.config[4] & 4 or self.f.state != RUNNING:
            return
        queue = self.f.queues[q]
        data = self.dma_read(queue["desc"], 8)
        if data is not None and len(data) == 8:
            self.dma_write(queue["desc"] + 8, bytes(b ^ 0xff for b in data))
        self.fire(queue["vector"])

    def fire(self, v):
        if v < len(self.vectors) and self.vectors[v] is not None:
            os.write(self.vectors[v], struct.pack("<Q", 1))

    # --- commands: return body, descriptors ---

    def version(self, body, fds):
        major, minor = struct.unpack_from("<HH", body)
        if major != 0:
            raise Refused(EINVAL)
        if len(body) > 4:
            if body[-1]:
                raise Refused(EINVAL)
            caps = json.loads(body[4:-1]).get("capabilities", {})
            self.client_fds = caps.get("max_msg_fds", 1)
            self.client_xfer = caps.get("max_data_xfer_size", 1 << 20)
        self.greeted = True
        reply = struct.pack("<HH", 0, min(minor, self.o.minor))
        if self.o.no_caps:
            return reply, ()
        caps = {"max_msg_fds": self.o.max_fds, "max_data_xfer_size": self.o.xfer, "pgsizes": 4096}
        return reply + json.dumps({"capabilities": caps}).encode() + b"\0", ()

    def dma_map(self, body, fds):
        _, flags, off, iova, size = struct.unpack_from("<IIQQQ", body)
        if not size or flags & ~3 or iova + size > 1 << 64:
            raise Refused(EINVAL)
        if any(iova < i + s and i < iova + size for i, (s, _) in self.maps.items()):
            raise Refused(EEXIST)
        m = None
        if fds:
            prot = (mmap.PROT_READ if flags & 1 else 0) | (mmap.PROT_WRITE if flags & 2 else 0)
            m = mmap.mmap(fds[0], size, mmap.MAP_SHARED, prot, offset=off)
        self.maps[iova] = (size, m)
        return b"", ()

    def dma_unmap(self, body, fds):
        _, flags, iova, size = struct.unpack_from("<IIQQ", body)
        if flags == 2 and not iova and not size:
            self.maps.clear()
            return body[:24], ()
        if self.maps.get(iova, (0,))[0] != size:
            raise Refused(ENOENT)
        del self.maps[iova]
        return body[:24], ()

    def get_info(self, body, fds):
        return struct.pack("<IIII", 16, 2 | (0 if self.o.no_reset else 1), 9, 5), ()

    def region_info(self, body, fds):
        argsz, _, index, _, _, _ = struct.unpack_from("<IIIIQQ", body)
        if index > 8:
            raise Refused(EINVAL)
        size = self.f.size(index)
        flags = 3 if size else 0
        if index != 0:
            return struct.pack("<IIIIQQ", 32, flags, index, 0, size, 0), ()
        # The page of queue 1 is not for mapping: a hole between two areas.
        areas = struct.pack("<QQQQ", NOTIFY, PAGE, NOTIFY + 2 * PAGE, 2 * PAGE)
        caps = struct.pack("<HHIII", 1, 1, 0, 2, 0) + areas
        if argsz < 32 + len(caps):
            return struct.pack("<IIIIQQ", 32 + len(caps), flags | 4, index, 0, size, 0), ()
        return (struct.pack("<IIIIQQ", 32 + len(caps), flags | 4 | 8, index, 32, size, 0) + caps,
                (self.f.fd,))

    def io_fds(self, body, fds):
        argsz, flags, index, count = struct.unpack_from("<IIII", body)
        if flags or count:
            raise Refused(EINVAL)
        bells = self.bells if index == 0 else []
        entries = b""
        for q, _ in enumerate(bells):
            entry = struct.pack("<QQIII", NOTIFY + q * PAGE, 2, q, 0, 1)
            if self.o.stride == 48:
                entries += entry + struct.pack("<IQQ", 0, 0, q)
            else:
                entries += entry + struct.pack("<IQ", 0, q)
        need = 16 + len(entries)
        head = struct.pack("<IIII", need, 0, index, len(bells))
        return (head, ()) if argsz < need else (head + entries, tuple(bells))

    def irq_info(self, body, fds):
        index = struct.unpack_from("<IIII", body)[2]
        if index > 4:
            raise Refused(EINVAL)
        return struct.pack("<IIII", 16, 1, index, self.irqs(index)[1]), ()

    def irqs(self, index):
        """Where the interrupts of this index begin in `vectors`, and how many they are."""
        return {2: (0, VECTORS), 3: (VECTORS, 1), 4: (VECTORS + 1, 1)}.get(index, (0, 0))

    def set_irqs(self, body, fds):
        if len(body) < 20:
            raise Refused(EINVAL)
        argsz, flags, index, start, count = struct.unpack_from("<IIIII", body)
        first, n = self.irqs(index)
        if argsz != len(body) or start + count > n or self.stopped():
            raise Refused(EINVAL)
        start += first
        if flags == 0x24:
            if fds and len(fds) != count or len(fds) > self.o.max_fds:
                raise Refused(EINVAL)
            for i in range(start, start + count):
                self.unwire(i)
                self.vectors[i] = os.dup(fds[i - start]) if fds else None
        elif flags == 0x21 and count == 0 and start == first:
            for i in range(first, first + n):
                self.unwire(i)
        elif flags == 0x21:
            for i in range(start, start + count):
                self.fire(i)
        else:
            raise Refused(EINVAL)
        return b"", ()

    def unwire(self, i):
        if self.vectors[i] is not None:
            os.close(self.vectors[i])
        self.vectors[i] = None

    def access(self, body):
        off, index, count = struct.unpack_from("<QII", body)
        if count > 1 << 20 or off + count > self.f.size(index):
            # As libvfio-user does: the body comes back with the error.
            raise Refused(EINVAL, body[:16])
        return off, index, count

    def region_read(self, body, fds):
        off, index, count = self.access(body)
        return body[:16] + bytes(self.f.region(index)[off:off + count]), ()

    def region_write(self, body, fds):
        off, index, count = self.access(body)
        data = body[16:16 + count]
        if len(data) != count:
            raise Refused(EINVAL)
        self.f.region(index)[off:off + count] = data
        rung = self.f.written(index, off, data)
        if rung is not None:
            self.ring(rung)
        return body[:16], ()

    def reset(self, body, fds):
        if self.stopped():
            raise Refused(EINVAL)
        self.f.reset()
        self.f.state = RUNNING
        return b"", ()

    def stopped(self):
        return self.f.state in (STOP, STOP_COPY)

    def feature(self, body, fds):
        argsz, flags = struct.unpack_from("<II", body)
        index, data = flags & 0xffff, body[8:]
        if self.o.no_migration or index not in (1, 2, 6, 7, 8):
            raise Refused(EINVAL)
        if flags & PROBE:
            return body[:8], ()
        if index == 1:
            return body[:8] + struct.pack("<Q", 1), ()
        if index == 2 and flags & GET:
            return body[:8] + struct.pack("<Ii", self.f.state, -1), ()
        if index == 2:
            self.move(struct.unpack_from("<I", data)[0])
            return body[:16], ()
        if index == 6:
            page = struct.unpack_from("<Q", data)[0]
            if not page:
                raise Refused(EINVAL)
            self.logging, self.dirty = True, set()
            return body, ()
        if index == 7:
            self.logging = False
            return body[:8], ()
        iova, length, page = struct.unpack_from("<QQQ", data)
        if page != PAGE or iova not in self.maps or not self.logging:
            raise Refused(EOPNOTSUPP)
        if length > self.maps[iova][0]:
            raise Refused(ENOENT)
        bits = bytearray((length // PAGE + 63) // 64 * 8)
        for p in [p for p in self.dirty if iova <= p * PAGE < iova + length]:
            n = p - iova // PAGE
            bits[n // 8] |= 1 << n % 8
            self.dirty.discard(p)
        return body[:32] + bytes(bits), ()

    def move(self, state):
        if state > RESUMING or ERROR_STATE in (state, self.f.state) or \
                (self.f.state, state) == (RESUMING, STOP_COPY):
            raise Refused(EINVAL)
        if self.f.state == RESUMING and self.f.blob[:4] not in (b"", b"ECHO"):
            self.f.state = ERROR_STATE
            raise Refused(EINVAL)
        if state == STOP_COPY:
            self.f.blob, self.f.at = b"ECHO" + bytes(i * 7 & 0xff for i in range(40000)), 0
        if state == RESUMING:
            self.f.blob = b""
        self.f.state = state

    def mig_read(self, body, fds):
        _, size = struct.unpack_from("<II", body)
        if self.f.state != STOP_COPY or size > self.client_xfer:
            raise Refused(EINVAL)
        part = self.f.blob[self.f.at:self.f.at + size]
        self.f.at += len(part)
        # As libvfio-user does: the answer is as long as the request allows.
        return struct.pack("<II", 8 + len(part), len(part)) + part.ljust(size, b"\0"), ()

    def mig_write(self, body, fds):
        _, size = struct.unpack_from("<II", body)
        if self.f.state != RESUMING or len(body) != 8 + size or size > self.o.xfer:
            raise Refused(EINVAL)
        self.f.blob += body[8:]
        return b"", ()

    COMMANDS = {VERSION: version, DMA_MAP: dma_map, DMA_UNMAP: dma_unmap, GET_INFO: get_info,
                REGION_INFO: region_info, IO_FDS: io_fds, IRQ_INFO: irq_info, SET_IRQS: set_irqs,
                REGION_READ: region_read, REGION_WRITE: region_write, RESET: reset,
                FEATURE: feature, MIG_READ: mig_read, MIG_WRITE: mig_write}

    # --- one request ---

    def handle(self):
        mid, cmd, flags, _, body, fds = self.message()
        self.seen[cmd] = self.seen.get(cmd, 0) + 1
        errno, reply, out = 0, b"", ()
        try:
            if not self.greeted and cmd != VERSION:
                raise Refused(EINVAL)
            if cmd not in self.COMMANDS:
                raise Refused(EOPNOTSUPP)
            reply, out = self.COMMANDS[cmd](self, body, fds)
        except Refused as r:
            errno, reply = r.errno, r.body
        except (struct.error, ValueError, OSError):
            errno = EINVAL
        for fd in fds:
            os.close(fd)
        if flags & NO_REPLY:
            return
        faulty = cmd == self.o.at and self.seen[cmd] >= self.o.nth
        if faulty and self.o.fault:
            self.broken(self.o.fault, mid, cmd, errno, reply, out)
        else:
            self.send(mid, cmd, REPLY | (ERROR if errno else 0), errno, reply, out)
        if not self.greeted:
            raise Gone()

    def broken(self, fault, mid, cmd, errno, body, fds):
        flags = REPLY | (ERROR if errno else 0)
        if fault == "late":
            time.sleep(self.o.delay)
            self.send(mid, cmd, flags, errno, body, fds)
        elif fault == "never":
            pass
        elif fault == "short":
            self.send(mid, cmd, flags, errno, body[:len(body) // 2], fds)
        elif fault == "long":
            self.send(mid, cmd, flags, errno, body + bytes(9000), fds)
        elif fault == "wrong-size":
            self.raw(struct.pack("<HHIII", mid, cmd, 8, flags, errno) + body, fds)
        elif fault == "wrong-id":
            self.send(mid ^ 0x40, cmd, flags, errno, body, fds)
        elif fault == "wrong-cmd":
            self.send(mid, cmd + 1, flags, errno, body, fds)
        elif fault == "wrong-type":
            self.send(mid, cmd, 5, errno, body, fds)
        elif fault == "huge":
            self.raw(struct.pack("<HHIII", mid, cmd, 0x7fffffff, flags, errno) + body, fds)
        elif fault == "cut":
            self.raw(struct.pack("<HHIII", mid, cmd, 16 + len(body), flags, errno) + body[:-1])
        elif fault == "extra-fds":
            self.send(mid, cmd, flags, errno, body, list(fds) + [2] * 40)
        elif fault == "bad-json":
            self.send(mid, cmd, flags, errno, body[:4] + b'{"capabilities":{"max_msg_fds":\0')
        elif fault == "bad-caps":
            self.send(mid, cmd, flags, errno, body[:4] + b'{"capabilities":{"max_msg_fds":-1}}\0')
        elif fault == "no-nul":
            self.send(mid, cmd, flags, errno, body[:-1])
        elif fault == "major":
            self.send(mid, cmd, flags, errno, struct.pack("<HH", 1, 0) + body[4:])
        elif fault == "error":
            self.send(mid, cmd, REPLY | ERROR, EFAULT, body)
        elif fault == "flood":
            # Commands without end, for which no answer is wanted, faster than anybody takes them.
            one = struct.pack("<HHIIIQQ", 1, DMA_READ, 32, NO_REPLY, 0, 0, 8)
            while True:
                self.raw(one * 2000)
        elif fault == "disconnect":
            raise Gone()
        elif fault == "unasked":
            self.send(mid, cmd, flags, errno, body, fds)
            time.sleep(0.05)
            self.send(mid, cmd, flags, errno, body)

    def run(self):
        poll = select.poll()
        poll.register(self.c, select.POLLIN)
        for bell in self.bells:
            poll.register(bell, select.POLLIN)
        try:
            while True:
                for fd, _ in poll.poll():
                    if fd == self.c.fileno():
                        self.handle()
                    else:
                        os.eventfd_read(fd)
                        self.ring(self.bells.index(fd))
        except (Gone, ConnectionError):
            pass
        finally:
            self.c.close()


def options():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("--socket", help="listen here, serve one client after the other")
    p.add_argument("--fd", type=int, help="a connected socket instead")
    p.add_argument("--ready", type=int, help="a descriptor to write a byte to, with --fd")
    p.add_argument("--clients", type=int, default=0, help="end after so many (0: never)")
    p.add_argument("--minor", type=int, default=2)
    p.add_argument("--no-caps", action="store_true", help="VERSION without JSON")
    p.add_argument("--max-fds", type=int, default=8)
    p.add_argument("--xfer", type=int, default=1 << 20)
    p.add_argument("--stride", type=int, default=48, choices=(40, 48))
    p.add_argument("--io-fds", action="store_true", help="offer eventfds for the doorbells")
    p.add_argument("--message-dma", action="store_true")
    p.add_argument("--no-reset", action="store_true")
    p.add_argument("--no-migration", action="store_true")
    p.add_argument("--poke", action="append", default=[], metavar="REGION:OFFSET:BYTES",
                   help="what a reset leaves there, in hexadecimal; once for each place")
    p.add_argument("--fault")
    p.add_argument("--at", type=int, default=VERSION)
    p.add_argument("--nth", type=int, default=1)
    p.add_argument("--delay", type=float, default=4)
    return p.parse_args()


def main():
    o = options()
    if o.fd is not None:
        server = Server(socket.socket(fileno=o.fd), o)
        if o.ready is not None:
            os.write(o.ready, b"r")
            os.close(o.ready)
        server.run()
        return
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(o.socket + ".new")
    listener.listen(1)
    os.rename(o.socket + ".new", o.socket)  # whoever sees it can connect
    served = 0
    while not o.clients or served < o.clients:
        Server(listener.accept()[0], o).run()
        served += 1


main()

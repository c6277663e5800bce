#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A vfio-user client that checks a server (unvf), written from the protocol's text alone.

    vfio_user_client.py SOCKET [CASE...]

It speaks as the clients in the field do: QEMU (its VERSION is 214 bytes and takes no longer answer),
SPDK (VERSION of 4 bytes, id 0 always, long bodies, descriptors that nobody wants), libvfio-user's;
then it says what no client should. Each case has a connection of its own and prints
`ok CASE` or `not ok CASE - reason`. The server is one of a virtio block or net function.
"""
import array
import json
import mmap
import os
import select
import socket
import struct
import sys
import time

(VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS, REGION_READ,
 REGION_WRITE, DMA_READ, DMA_WRITE, RESET, DIRTY_PAGES, WRITE_MULTI, FEATURE, MIG_READ,
 MIG_WRITE) = range(1, 19)
REPLY, NO_REPLY, ERROR = 1, 1 << 4, 1 << 5
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
EINVAL, ENOENT, EEXIST = 22, 2, 17
CONFIG = 7
PATIENCE = 30


class Failed(Exception):
    """What the server did and should not."""


class Closed(Failed):
    """The server has closed the connection."""


def need(promise, why):
    if not promise:
        raise Failed(why)


class Client:
    def __init__(self, path):
        self.s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.s.settimeout(PATIENCE)
        self.s.connect(path)
        self.id = 0

    def close(self):
        self.s.close()

    def raw(self, data, fds=()):
        anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            sent = self.s.sendmsg([data], anc)
            while sent < len(data):
                sent += self.s.send(data[sent:])
        except (BrokenPipeError, ConnectionResetError):
            raise Closed("it closed the connection") from None

    def send(self, cmd, body=b"", fds=(), mid=None, flags=0):
        if mid is None:
            self.id = (self.id + 1) & 0xffff
            mid = self.id
        self.raw(struct.pack("<HHIII", mid, cmd, 16 + len(body), flags, 0) + body, fds)
        return mid

    def bytes(self, n):
        data, fds = b"", []
        while len(data) < n:
            try:
                part, anc, _, _ = self.s.recvmsg(n - len(data), 1200)
            except ConnectionResetError:
                part, anc = b"", []
            except socket.timeout:
                raise Failed("no answer within %d s" % PATIENCE) from None
            for level, kind, payload in anc:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    a = array.array("i")
                    a.frombytes(payload[:len(payload) // 4 * 4])
                    fds += a
            if not part:
                raise Closed("it closed the connection")
            data += part
        return data, fds

    def reply(self, cmd, mid):
        """(errno, body, descriptors) of the answer, which must be one."""
        head, fds = self.bytes(16)
        rid, rcmd, size, flags, errno = struct.unpack("<HHIII", head)
        need(16 <= size <= 1 << 21, "an answer of %d bytes" % size)
        body, more = self.bytes(size - 16)
        need((rid, rcmd) == (mid, cmd), "command %d id %d answered as %d id %d" % (cmd, mid, rcmd, rid))
        need(flags & 0xf == REPLY, "an answer with flags %#x" % flags)
        need(bool(flags & ERROR) == bool(errno), "error flag and errno %d disagree" % errno)
        return errno, body, fds + more

    def call(self, cmd, body=b"", fds=(), mid=None):
        return self.reply(cmd, self.send(cmd, body, fds, mid))

    def good(self, cmd, body=b"", fds=(), want=None):
        errno, reply, out = self.call(cmd, body, fds)
        need(errno == 0, "command %d: %s" % (cmd, os.strerror(errno)))
        need(want is None or len(reply) == want, "command %d answered with %d bytes" % (cmd, len(reply)))
        return reply, out

    def bad(self, errno, cmd, body=b"", fds=()):
        got, _, out = self.call(cmd, body, fds)
        for fd in out:
            os.close(fd)
        need(got == errno if isinstance(errno, int) else got in errno,
             "command %d: errno %d, not %s" % (cmd, got, errno))

    # --- what most cases begin with ---

    def version(self, minor=2, caps=None):
        caps = {"max_msg_fds": 8, "max_data_xfer_size": 1 << 20} if caps is None else caps
        text = json.dumps({"capabilities": caps}).encode() + b"\0"
        return self.good(VERSION, struct.pack("<HH", 0, minor) + text)[0]

    def read(self, region, off, n):
        reply, _ = self.good(REGION_READ, struct.pack("<QII", off, region, n), want=16 + n)
        need(struct.unpack_from("<QII", reply) == (off, region, n), "another access is answered")
        return reply[16:]

    def write(self, region, off, data):
        head = struct.pack("<QII", off, region, len(data))
        reply, _ = self.good(REGION_WRITE, head + data, want=16)
        need(reply == head, "another access is answered")

    def region(self, index, argsz=4096):
        reply, fds = self.good(REGION_INFO, struct.pack("<IIIIQQ", argsz, 0, index, 0, 0, 0))
        return struct.unpack_from("<IIIIQQ", reply), reply, fds

    def capability(self, kind):
        """(bar, offset, length, place) of a virtio capability."""
        cfg = self.read(CONFIG, 0, 256)
        at = cfg[0x34]
        for _ in range(48):
            if not at:
                break
            if cfg[at] == 9 and cfg[at + 3] == kind:
                return cfg[at + 4], *struct.unpack_from("<II", cfg, at + 8), at
            at = cfg[at + 1]
        raise Failed("no virtio capability %d" % kind)


CASES = []


def case(fn):
    CASES.append(fn)
    return fn


# --- clients of the field ---

@case
def version_of_qemu(c):
    """QEMU's request is 214 bytes; a longer answer, or more than it allows, ends its VM."""
    caps = {"max_msg_fds": 8, "max_data_xfer_size": 1048576, "max_dma_maps": 65535,
            "pgsizes": 4096, "write_multiple": True, "twin_socket": {"supported": False}}
    text = json.dumps({"capabilities": caps}, separators=(",", ":")).encode()
    body = struct.pack("<HH", 0, 0) + text.ljust(214 - 16 - 4 - 1) + b"\0"
    need(len(body) == 198, "this client is wrong: %d" % len(body))
    reply, fds = c.good(VERSION, body)
    need(16 + len(reply) <= 214, "VERSION answered with %d bytes, QEMU takes 214" % (16 + len(reply)))
    need(struct.unpack_from("<HH", reply) == (0, 0), "QEMU's minor 0 is not kept to")
    need(not fds, "descriptors with VERSION")
    need(reply[-1] == 0, "no NUL behind the JSON")
    said = json.loads(reply[4:-1])["capabilities"]
    need(1 <= said.get("max_msg_fds", 1) <= 16, "QEMU refuses max_msg_fds above 16")
    need(said.get("max_data_xfer_size", 0) <= 64 << 20, "QEMU refuses transfers above 64 MiB")


@case
def version_of_spdk(c):
    """4 bytes, no JSON, id 0 always; long bodies; a descriptor with DMA_UNMAP."""
    errno, reply, _ = c.call(VERSION, struct.pack("<HH", 0, 1), mid=0)
    need(not errno and struct.unpack_from("<HH", reply) <= (0, 1), "a bare VERSION is not answered")
    errno, reply, fds = c.call(REGION_INFO, struct.pack("<IIIIQQ", 4064, 0, CONFIG, 0, 0, 0).ljust(4064, b"\0"),
                               mid=0)
    need(not errno and len(reply) >= 32, "a body of 4064 bytes is not taken")
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 1 << 20)
    errno, _, _ = c.call(DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 1 << 20), (fd,), mid=0)
    need(not errno, "DMA_MAP: %s" % os.strerror(errno))
    errno, reply, _ = c.call(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0, 1 << 20), (fd,), mid=0)
    need(not errno and len(reply) == 24, "DMA_UNMAP with a descriptor is not taken")
    os.close(fd)


@case
def version_of_libvfio_user(c):
    reply = c.version(2, {"max_msg_fds": 8, "max_data_xfer_size": 1048576, "migration": {"pgsize": 4096}})
    major, minor = struct.unpack_from("<HH", reply)
    need(major == 0 and minor <= 2, "version %d.%d" % (major, minor))


@case
def version_minor_is_the_lower(c):
    major, minor = struct.unpack_from("<HH", c.version(9))
    need(major == 0 and minor < 9, "version %d.%d is answered to 0.9" % (major, minor))


def refused_and_closed(c, body):
    """An error, then the end; a server may also just close."""
    try:
        errno, _, _ = c.call(VERSION, body)
    except Closed:
        return
    need(errno, "it is accepted")
    try:
        c.bytes(1)
    except Closed:
        return
    raise Failed("the connection stays open")


@case
def version_other_major(c):
    refused_and_closed(c, struct.pack("<HH", 1, 0))


@case
def version_bad_json(c):
    refused_and_closed(c, struct.pack("<HH", 0, 1) + b'{"capabilities":{\0')


@case
def version_no_nul(c):
    refused_and_closed(c, struct.pack("<HH", 0, 1) + b'{"capabilities":{}}')


@case
def version_too_short(c):
    refused_and_closed(c, b"\0\0")


@case
def version_first(c):
    """Anything before VERSION is refused."""
    try:
        errno, _, _ = c.call(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
    except Closed:
        return
    need(errno, "DEVICE_GET_INFO before VERSION is answered")


# --- what it shows ---

@case
def device_info(c):
    c.version()
    reply, _ = c.good(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0), want=16)
    argsz, flags, regions, irqs = struct.unpack("<IIII", reply)
    need(flags & 2 and regions >= 8 and irqs >= 3 and argsz >= 16, "flags %#x, %d regions, %d irqs" % (
        flags, regions, irqs))


@case
def regions_and_areas(c):
    c.version()
    mapped = 0
    for i in range(9):
        (argsz, flags, index, cap, size, off), reply, fds = c.region(i)
        need(index == i and argsz <= 4096 and len(reply) <= max(argsz, 32), "region %d is not described" % i)
        need(len(fds) <= 1, "more than one descriptor: QEMU ends there")
        if not flags & 4:
            need(not fds, "a descriptor without anything to map")
            continue
        # Asked with too little room: 32 bytes, how much is needed, no capabilities, no descriptor.
        if argsz > 32:
            short, sreply, sfds = c.region(i, 32)
            need(len(sreply) == 32 and short[0] == argsz and not short[1] & 8 and not sfds,
                 "region %d: a short request is not answered with what is needed" % i)
        areas = [(0, size)]
        if flags & 8:
            cid, _, _, n, _ = struct.unpack_from("<HHIII", reply, cap)
            need(cid == 1 and cap + 16 + 16 * n <= len(reply), "region %d: capability %d" % (i, cid))
            areas = [struct.unpack_from("<QQ", reply, cap + 16 + 16 * k) for k in range(n)]
        need(fds, "region %d can be mapped, and comes without a descriptor" % i)
        for a, n in areas:
            need(n and a % 4096 == 0 and n % 4096 == 0 and a + n <= size, "area %#x+%#x" % (a, n))
            mmap.mmap(fds[0], n, offset=off + a).close()
            mapped += 1
        os.close(fds[0])
    c.bad(EINVAL, REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 99, 0, 0, 0))
    c.bad(EINVAL, REGION_INFO, struct.pack("<III", 32, 0, 0))


@case
def configuration_space(c):
    c.version()
    vendor, device = struct.unpack("<HH", c.read(CONFIG, 0, 4))
    need(vendor == 0x1af4 and 0x1040 <= device < 0x1080, "%04x:%04x" % (vendor, device))
    need(c.read(CONFIG, 0, 1) == b"\xf4" and c.read(CONFIG, 1, 1) == b"\x1a", "bytes differ from words")
    for kind in (1, 2, 3, 4):
        bar, off, length, _ = c.capability(kind)
        size = c.region(bar)[0][4]
        need(length and off + length <= size, "capability %d leaves BAR %d" % (kind, bar))


@case
def register_bounds(c):
    c.version()
    size = c.region(CONFIG)[0][4]
    for region, off, n in ((CONFIG, size, 1), (CONFIG, size - 1, 2), (CONFIG, 2 ** 64 - 1, 4),
                           (9, 0, 1), (99, 0, 1), (CONFIG, 0, 0x7fffffff)):
        c.bad(EINVAL, REGION_READ, struct.pack("<QII", off, region, n))
    c.bad(EINVAL, REGION_WRITE, struct.pack("<QII", size, CONFIG, 2) + b"ab")
    c.bad(EINVAL, REGION_WRITE, struct.pack("<QII", 0, CONFIG, 200) + b"ab")
    c.bad(EINVAL, REGION_READ, b"\0" * 8)
    need(c.read(CONFIG, 0, 2) == b"\xf4\x1a", "it is not what it was")


@case
def status_and_reset(c):
    c.version()
    bar, common, _, _ = c.capability(1)
    c.write(bar, common + 0x14, b"\x01")
    need(c.read(bar, common + 0x14, 1) == b"\x01", "the status is not kept")
    c.good(RESET, want=0)
    need(c.read(bar, common + 0x14, 1) == b"\0", "the status outlives a reset")


@case
def write_without_reply(c):
    """A posted write is not answered; what follows is."""
    c.version()
    bar, common, _, _ = c.capability(1)
    c.send(REGION_WRITE, struct.pack("<QII", common + 0x14, bar, 1) + b"\x01", flags=NO_REPLY)
    need(c.read(bar, common + 0x14, 1) == b"\x01", "a posted write is lost")


# --- interrupts ---

def irqs(flags, start, count, index=2):
    return struct.pack("<IIIII", 20, flags, index, start, count)


@case
def interrupts(c):
    c.version()
    reply, _ = c.good(IRQ_INFO, struct.pack("<IIII", 16, 0, 2, 0), want=16)
    _, flags, _, n = struct.unpack("<IIII", reply)
    need(flags & 1 and n >= 2, "%d vectors, flags %#x" % (n, flags))
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(n)]
    for at in range(0, n, 8):
        c.good(SET_IRQS, irqs(0x24, at, min(8, n - at)), fds[at:at + 8], want=0)
    c.good(SET_IRQS, irqs(0x21, 1, 1), want=0)
    need(select.select([fds[1]], [], [], 2)[0], "a fired vector is not signalled")
    os.eventfd_read(fds[1])
    need(not select.select([fds[0]], [], [], 0)[0], "another vector is signalled")
    c.bad(EINVAL, SET_IRQS, irqs(0x24, 0, 2), fds[:1])
    c.bad(EINVAL, SET_IRQS, irqs(0x24, n, 1), fds[:1])
    c.bad(EINVAL, SET_IRQS, irqs(0x24, 0xffffffff, 2), fds[:2])
    c.bad(EINVAL, SET_IRQS, irqs(0x27, 0, 1), fds[:1])
    c.bad(EINVAL, SET_IRQS, irqs(0x24, 0, 1, 77), fds[:1])
    c.good(SET_IRQS, irqs(0x24, 1, 1), want=0)
    c.call(SET_IRQS, irqs(0x21, 1, 1))
    need(not select.select([fds[1]], [], [], 0.05)[0], "a vector whose descriptor was taken away is signalled")
    c.good(SET_IRQS, irqs(0x21, 0, 0), want=0)
    for fd in fds:
        os.close(fd)


# --- memory ---

@case
def dma_maps(c):
    c.version()
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 1 << 20)
    one = struct.pack("<IIQQQ", 32, 3, 0, 0x10000, 0x10000)
    c.good(DMA_MAP, one, (fd,), want=0)
    c.bad((EEXIST, EINVAL), DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0x18000, 0x10000), (fd,))
    c.bad(EINVAL, DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0x100000, 0), (fd,))
    c.bad(EINVAL, DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 2 ** 64 - 4096, 8192), (fd,))
    c.bad(EINVAL, DMA_MAP, struct.pack("<IIQQ", 32, 3, 0, 0), (fd,))
    c.bad(ENOENT, DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0x10000, 0x8000))
    reply, _ = c.good(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0x10000, 0x10000), want=24)
    need(struct.unpack("<IIQQ", reply)[2:] == (0x10000, 0x10000), "another range is answered")
    c.bad(ENOENT, DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0x10000, 0x10000))
    c.good(DMA_MAP, one, (fd,), want=0)
    c.good(DMA_UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0))  # ALL, as QEMU says it
    c.good(DMA_MAP, one, (fd,), want=0)
    os.close(fd)


@case
def stray_descriptors(c):
    """They are closed: 300 messages with 8 each are more than a process may have open."""
    c.version()
    fds = [0] * 8
    for _ in range(300):
        c.good(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0), fds, want=16)
    c.good(REGION_READ, struct.pack("<QII", 0, CONFIG, 2), want=18)


# --- doorbells, features ---

@case
def io_fds(c):
    c.version()
    bar, notify, length, _ = c.capability(2)
    errno, reply, fds = c.call(IO_FDS, struct.pack("<IIII", 16 + 64 * 48, 0, bar, 0))
    if errno or not reply:
        return
    argsz, _, index, n = struct.unpack_from("<IIII", reply)
    need(index == bar, "another region is described")
    if not n:
        return
    stride = (argsz - 16) // n
    need(stride in (40, 48) and len(reply) == argsz, "%d entries in %d bytes" % (n, argsz))
    for k in range(n):
        off, size, at, kind, _ = struct.unpack_from("<QQIII", reply, 16 + k * stride)
        need(kind == 0 and at < len(fds), "entry %d: type %d, descriptor %d" % (k, kind, at))
        need(notify <= off < notify + length, "a doorbell at %#x" % off)
    short, _ = c.good(IO_FDS, struct.pack("<IIII", 16, 0, bar, 0), want=16)
    need(struct.unpack_from("<I", short)[0] == argsz, "a short request is not told what is needed")
    for fd in fds:
        os.close(fd)


@case
def features(c):
    """Migration, if there is any: out and in again."""
    c.version()
    errno, reply, _ = c.call(FEATURE, struct.pack("<II", 16, 1 | GET))
    if errno:
        return
    need(len(reply) == 16 and struct.unpack_from("<Q", reply, 8)[0] & 1, "no STOP_COPY")

    def move(state):
        c.good(FEATURE, struct.pack("<IIII", 16, 2 | SET, state, 0))

    move(3)
    data = b""
    while True:
        reply, _ = c.good(MIG_READ, struct.pack("<II", 8 + 4096, 4096))
        size = struct.unpack_from("<II", reply)[1]
        need(size <= 4096 and len(reply) >= 8 + size, "MIG_DATA_READ: %d of %d bytes" % (len(reply), size))
        data += reply[8:8 + size]
        if size < 4096:
            break
        need(len(data) < 64 << 20, "its state has no end")
    move(1)
    move(4)
    for at in range(0, len(data), 4096):
        part = data[at:at + 4096]
        c.good(MIG_WRITE, struct.pack("<II", 8 + len(part), len(part)) + part, want=0)
    move(2)
    state = struct.unpack_from("<I", c.good(FEATURE, struct.pack("<II", 16, 2 | GET))[0], 8)[0]
    need(state == 2, "state %d after the way back to RUNNING" % state)
    c.bad(range(1, 134), FEATURE, struct.pack("<IIII", 16, 2 | SET, 77, 0))
    c.bad(range(1, 134), FEATURE, struct.pack("<II", 8, 4000 | GET))


@case
def dma_log(c):
    """START's ranges follow in the message, where the kernel's struct has a pointer."""
    c.version()
    errno, _, _ = c.call(FEATURE, struct.pack("<II", 8, 6 | SET | PROBE))
    if errno:
        return
    fd = os.memfd_create("ram")
    os.ftruncate(fd, 1 << 20)
    c.good(DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0x10000, 1 << 20), (fd,), want=0)
    c.good(FEATURE, struct.pack("<IIQIIQQ", 40, 6 | SET, 4096, 1, 0, 0x10000, 1 << 20))
    reply, _ = c.good(FEATURE, struct.pack("<IIQQQ", 32 + 32, 8 | GET, 0x10000, 1 << 20, 4096), want=64)
    need(reply[32:] == bytes(32), "pages are dirty that nobody wrote")
    c.bad(range(1, 134), FEATURE, struct.pack("<IIQQQ", 64, 8 | GET, 0x800000, 1 << 20, 4096))
    c.good(FEATURE, struct.pack("<II", 8, 7 | SET))
    os.close(fd)


# --- what no client should say ---

@case
def unknown_commands(c):
    c.version()
    for cmd in (0, DMA_READ, DIRTY_PAGES, 19, 0xffff):
        errno, _, _ = c.call(cmd, b"abcd")
        need(errno, "command %d is answered" % cmd)
    need(c.read(CONFIG, 0, 2) == b"\xf4\x1a", "it is not what it was")


def ended(c, data):
    try:
        c.raw(data)
        c.s.settimeout(PATIENCE)
        c.bytes(1)
    except Closed:
        return
    raise Failed("it goes on")


@case
def message_shorter_than_a_header(c):
    c.version()
    ended(c, struct.pack("<HHIII", 1, GET_INFO, 8, 0, 0))


@case
def message_without_end(c):
    c.version()
    ended(c, struct.pack("<HHIII", 1, GET_INFO, 0xffffffff, 0, 0) + bytes(4096))


@case
def disconnect_in_a_message(c):
    """The next client is served: see `after_all`."""
    c.version()
    c.raw(struct.pack("<HHIII", 1, REGION_WRITE, 16 + 16 + 4096, 0, 0) + bytes(100))


@case
def large_bodies(c):
    """Near the limit of a message, again and again."""
    c.version()
    for _ in range(50):
        errno, _, _ = c.call(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0).ljust(30000, b"\0"))
        need(not errno, "30000 bytes are not taken")


@case
def after_all(c):
    c.version()
    need(c.read(CONFIG, 0, 2) == b"\xf4\x1a", "it is not what it was")


def connect(path):
    """The server takes the next client when it is done with the last."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return Client(path)
        except OSError:
            if time.monotonic() > end:
                raise Failed("no connection") from None
            time.sleep(0.02)


def main():
    path, names = sys.argv[1], sys.argv[2:]
    failed = 0
    for fn in CASES:
        name = fn.__name__.replace("_", "-")
        if names and name not in names:
            continue
        c = None
        try:
            c = connect(path)
            fn(c)
            print("ok %s" % name, flush=True)
        except (Failed, OSError, ValueError, KeyError, struct.error) as e:
            print("not ok %s - %s: %s" % (name, type(e).__name__, e), flush=True)
            failed += 1
        finally:
            if c:
                c.close()
    sys.exit(failed != 0)


main()

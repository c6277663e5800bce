# SPDX-License-Identifier: Apache-2.0
"""What a migration stream consists of (migrate/FORMAT.md), as text without the values: for a golden
file that shows when the format changes. Used by tests/boot/migrate."""

import re
import struct

NAMES = {1: "HELLO", 4: "RAM", 8: "STATE", 9: "STATE_END", 11: "COMMIT"}
# How long these are is the host's: its CPU's leaves, its KVM's list of MSRs, its extended state.
OF_THE_HOST = ("machine/cpuid", "msrs/index", "msrs/value", "fpu/xsave")


def sections(data):
    """(type, payload) of each."""
    at = 0
    while at < len(data):
        kind, flags, length, number, _ = struct.unpack_from("<HHIII", data, at)
        assert flags == 0
        yield kind, data[at + 16:at + 16 + length]
        at += 16 + length


def fdt(blob):
    """Lines "path/property length" of a flattened device tree, in its order."""
    magic, _, struct_at, strings_at = struct.unpack_from(">IIII", blob)
    assert magic == 0xd00dfeed
    at, path, lines = struct_at, [], []
    while True:
        token, = struct.unpack_from(">I", blob, at)
        at += 4
        if token == 1:  # a node begins
            end = blob.index(b"\0", at)
            path.append(blob[at:end].decode())
            at = end + 4 & ~3
        elif token == 2:
            path.pop()
        elif token == 3:
            length, name_at = struct.unpack_from(">II", blob, at)
            name_at += strings_at
            name = blob[name_at:blob.index(b"\0", name_at)].decode()
            value = blob[at + 8:at + 8 + length]
            at += 8 + length + 3 & ~3
            where = "/".join(path[1:] + [name])
            what = str(length)
            if where.endswith(OF_THE_HOST):
                what = "(host)"
            elif name in ("class", "device"):
                what = value.rstrip(b"\0").decode()
            elif name == "state-version":
                what = "= " + str(int.from_bytes(value, "big"))
            if not re.search("@(?!0(/|$))", where):  # of a table's rows the first says it all
                lines.append(f"{where} {what}")
        elif token == 9:
            return lines


def describe(data):
    """Lines about a snapshot: its sections once each, and what is in them."""
    lines, last = [], None
    for kind, payload in sections(data):
        name = NAMES.get(kind, f"type {kind}")
        if kind == 1:
            oldest, newest, flags = struct.unpack_from("<8xHHI", payload)
            lines.append(f"HELLO versions {oldest} to {newest} flags {flags}")
            lines += ["  " + line for line in fdt(payload[24:])]
        elif kind == 8:
            lines.append(f"STATE {payload[:32].rstrip(bytes(1)).decode()}")
            lines += ["  " + line for line in fdt(payload[32:])]
        elif kind != 4:
            lines.append(f"{name} {len(payload)}")
        elif last != 4:
            lines.append("RAM")
        last = kind
    return lines

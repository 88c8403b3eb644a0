"""wire.py - bytes by hand: frames of HTTP/2, messages of gRPC, numbers of protobuf."""

import struct

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIO = 1, 1, 4, 8, 32
NO_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CALM = 0, 2, 7, 11


def frame(kind, flags=0, stream=0, body=b""):
    return struct.pack(">I", len(body))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def goaway(last, code=NO_ERROR):
    return frame(GOAWAY, 0, 0, struct.pack(">II", last, code))


def framed(message, flag=0):
    """A message as gRPC sends it."""
    return struct.pack(">BI", flag, len(message)) + message


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])

/*
 * h2_bytes.h - HTTP/2 for the fuzzer: frames whose heads are always well-formed, or any bytes.
 *
 * Input: a byte.  When its lowest bit is set the rest is sent as it is.  Otherwise the rest is
 * a list of records, each a frame: type, flags, stream, two bytes of length, payload.  So a
 * mutation seldom breaks the framing, and gets to what lies behind it.
 */
#ifndef DROVER_TESTS_FUZZ_H2_BYTES_H
#define DROVER_TESTS_FUZZ_H2_BYTES_H

#include "base/text/buf.h"
#include "tests/fuzz/fuzz.h"

static inline void h2_bytes(struct buf *out, struct input *in)
{
    if ((input_byte(in) & 1) != 0) {
        buf_add(out, in->at, in->left);
        in->left = 0;
        return;
    }
    while (in->left != 0) {
        uint8_t type = (uint8_t)input_byte(in), flags = (uint8_t)input_byte(in);
        uint8_t stream = (uint8_t)input_byte(in);
        size_t n = input_byte(in) << 8;
        const uint8_t *payload;

        n |= input_byte(in);
        payload = input_bytes(in, n, &n);
        buf_add(out,
                (uint8_t[]){(uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n, type, flags}, 5);
        buf_add(out, (uint8_t[]){0, 0, 0, stream}, 4);
        buf_add(out, payload, n);
    }
}

#endif

/*
 * decoder.c - bodies with a content coding: what comes out is the same whatever the pieces, and
 * what is encoded comes back.
 *
 * Input: a byte for the coding, one for the size of the pieces that go in, one for those that
 * come out; then the body.
 */
#include "worker/encoding/decoder.h"

#include <zlib.h>
#include <zstd.h>

#include "base/error.h"
#include "tests/fuzz/fuzz.h"

#define MAX_OUT ((size_t)256 * 1024)

/* Decodes all of it, in pieces.  Returns what decoder_feed() or decoder_end() says, or
 * DRV_EFULL beyond MAX_OUT. */
static int decode(enum body_encoding encoding, const uint8_t *in, size_t n, size_t in_step,
                  size_t out_step, uint8_t *out, size_t *out_n)
{
    struct decoder *d = decoder_create(encoding);
    struct decoder_io io = {.in = in};
    struct error err = {0};
    size_t offered = 0, got = 0, room = 0;
    int rc;

    MUST(d != NULL);
    for (;;) {
        if (io.in_left == 0 && offered < n) {
            io.in_left = n - offered < in_step ? n - offered : in_step;
            offered += io.in_left;
        }
        room = MAX_OUT - got < out_step ? MAX_OUT - got : out_step;
        io.out = out + got;
        io.out_left = room;
        rc = room == 0 ? DRV_EFULL : decoder_feed(d, &io, &err);
        if (rc != 0)
            break;
        MUST(io.in + io.in_left == in + offered && io.out_left <= room);
        MUST(io.out_left == 0 || io.in_left == 0);
        got += room - io.out_left;
        if (io.out_left > 0 && offered == n) {
            rc = decoder_end(d, &err);
            break;
        }
    }
    MUST(rc == 0 || rc == DRV_EFULL || (rc == err.code && err.text[0] != '\0'));
    /* The window, its rest, and what zstd keeps for a block. */
    MUST(decoder_memory(d) < (size_t)10 * 1024 * 1024);
    decoder_destroy(d);
    *out_n = got;
    return rc;
}

static void comes_back(enum body_encoding encoding, const uint8_t *data, size_t n)
{
    size_t cap = compressBound(n) + ZSTD_compressBound(n) + 64, len = 0, got;
    uint8_t *packed = malloc(cap), *out = malloc(MAX_OUT);
    z_stream z = {0};

    MUST(packed != NULL && out != NULL);
    if (encoding == ENCODING_ZSTD) {
        len = ZSTD_compress(packed, cap, data, n, 1);
    } else {
        MUST(deflateInit2(&z, 1, Z_DEFLATED,
                          encoding == ENCODING_GZIP ? 31
                          : (n & 1) != 0            ? -15
                                                    : 15,
                          8, Z_DEFAULT_STRATEGY) == Z_OK);
        z.next_in = (Bytef *)(uintptr_t)data;
        z.avail_in = (uInt)n;
        z.next_out = packed;
        z.avail_out = (uInt)cap;
        MUST(deflate(&z, Z_FINISH) == Z_STREAM_END);
        len = z.total_out;
        (void)deflateEnd(&z);
    }
    MUST(decode(encoding, packed, len, 7, 5, out, &got) == 0);
    MUST(got == n && (n == 0 || memcmp(out, data, n) == 0));
    MUST(decode(encoding, packed, len - 1, len, MAX_OUT, out, &got) == DRV_EINVAL);
    free(packed);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    enum body_encoding encoding = (enum body_encoding)(1 + input_byte(&in) % 3);
    size_t in_step = 1 + input_byte(&in), out_step = 1 + input_byte(&in), n1, n2;
    uint8_t *one = malloc(MAX_OUT), *other = malloc(MAX_OUT);
    char *copy = input_copy(in.at, in.left);
    int rc1, rc2;

    MUST(one != NULL && other != NULL);
    rc1 = decode(encoding, (uint8_t *)copy, in.left, in.left == 0 ? 1 : in.left, MAX_OUT, one,
                 &n1);
    rc2 = decode(encoding, (uint8_t *)copy, in.left, in_step, out_step, other, &n2);
    MUST(rc1 == rc2 || rc1 == DRV_EFULL || rc2 == DRV_EFULL);
    MUST(rc1 != 0 || rc2 != 0 || (n1 == n2 && memcmp(one, other, n1) == 0));
    if (in.left < MAX_OUT / 2)
        comes_back(encoding, (uint8_t *)copy, in.left);
    (void)encoding_parse(encoding, copy, in.left);
    free(one);
    free(other);
    free(copy);
    return 0;
}

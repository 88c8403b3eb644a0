/* test_decoder.c - bodies with a content coding, whole, in pieces, damaged and cut. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "base/attrs.h"
#include "base/error.h"
#include "worker/encoding/decoder.h"

#define TEXT_BYTES 200000

static uint8_t text[TEXT_BYTES], packed[2 * TEXT_BYTES], out[4 * TEXT_BYTES];
static size_t out_n;
static struct error err;

/* Half of it repeats, half of it does not. */
static void init(void)
{
    uint32_t seed = 1;

    for (size_t i = 0; i < TEXT_BYTES; i++) {
        seed = seed * 1664525 + 1013904223;
        text[i] = i % 1000 < 500 ? (uint8_t)(seed >> 24) : (uint8_t)('a' + i % 7);
    }
}

TestSuite(decoder, .init = init, .timeout = 60);

enum { BITS_ZLIB = 15, BITS_RAW = -15, BITS_GZIP = 31 };

static size_t deflated(uint8_t *to, int bits, const void *in, size_t n)
{
    z_stream z = {0};

    cr_assert_eq(deflateInit2(&z, 6, Z_DEFLATED, bits, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)n;
    z.next_out = to;
    z.avail_out = (uInt)(packed + sizeof(packed) - to);
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    (void)deflateEnd(&z);
    return z.total_out;
}

static size_t zstd_packed(uint8_t *to, int window_log, const void *in, size_t n)
{
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_inBuffer from = {in, n, 0};
    ZSTD_outBuffer into = {to, (size_t)(packed + sizeof(packed) - to), 0};

    if (window_log != 0)
        (void)ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, window_log);
    (void)ZSTD_CCtx_setParameter(c, ZSTD_c_checksumFlag, 1);
    /* Not knowing the size, it states the window. */
    cr_assert(!ZSTD_isError(ZSTD_compressStream2(c, &into, &from, ZSTD_e_flush)));
    cr_assert_eq(ZSTD_compressStream2(c, &into, &from, ZSTD_e_end), 0);
    ZSTD_freeCCtx(c);
    return into.pos;
}

/* Decodes packed[0..n) in pieces into out[0..out_n). */
static int decode_in(enum body_encoding encoding, size_t n, size_t in_step, size_t out_step)
{
    struct decoder *d = decoder_create(encoding);
    struct decoder_io io = {.in = packed};
    size_t offered = 0;
    int rc = 0;

    memset(&err, 0, sizeof(err));
    out_n = 0;
    while (rc == 0) {
        if (io.in_left == 0 && offered < n) {
            io.in_left = n - offered < in_step ? n - offered : in_step;
            offered += io.in_left;
        }
        io.out = out + out_n;
        io.out_left = out_step;
        cr_assert_leq(out_n + out_step, sizeof(out));
        rc = decoder_feed(d, &io, &err);
        out_n += out_step - io.out_left;
        if (rc == 0 && io.out_left > 0 && offered == n) {
            rc = decoder_end(d, &err);
            break;
        }
    }
    decoder_destroy(d);
    return rc;
}

static int decode(enum body_encoding encoding, size_t n)
{
    return decode_in(encoding, n, n, TEXT_BYTES + 1);
}

static void expect_text(enum body_encoding encoding, size_t n, size_t length)
{
    static const size_t steps[] = {1, 3, 4096, TEXT_BYTES + 1};

    for (size_t i = 0; i < ARRAY_LEN(steps); i++)
        for (size_t k = 0; k < ARRAY_LEN(steps); k++) {
            cr_assert_eq(decode_in(encoding, n, steps[i], steps[k]), 0,
                         "%s in %zu, out %zu: %s", encoding_name(encoding), steps[i], steps[k],
                         err.text);
            cr_assert_eq(out_n, length);
            cr_assert(length == 0 || memcmp(out, text, length) == 0);
        }
}

static void expect_bad(enum body_encoding encoding, size_t n, const char *why)
{
    cr_expect_eq(decode(encoding, n), DRV_EINVAL, "%s", why);
    cr_expect(strstr(err.text, why) != NULL, "'%s' is not '%s'", err.text, why);
    cr_expect_eq(decode_in(encoding, n, 1, 1), DRV_EINVAL);
    cr_expect(strstr(err.text, why) != NULL, "in pieces: '%s' is not '%s'", err.text, why);
}

Test(decoder, each_coding_gives_the_text_whatever_the_pieces)
{
    expect_text(ENCODING_GZIP, deflated(packed, BITS_GZIP, text, TEXT_BYTES), TEXT_BYTES);
    expect_text(ENCODING_DEFLATE, deflated(packed, BITS_ZLIB, text, TEXT_BYTES), TEXT_BYTES);
    expect_text(ENCODING_DEFLATE, deflated(packed, BITS_RAW, text, TEXT_BYTES), TEXT_BYTES);
    expect_text(ENCODING_ZSTD, zstd_packed(packed, 0, text, TEXT_BYTES), TEXT_BYTES);
    expect_text(ENCODING_ZSTD, ZSTD_compress(packed, sizeof(packed), text, TEXT_BYTES, 3),
                TEXT_BYTES);
}

Test(decoder, nothing_is_a_text_too)
{
    expect_text(ENCODING_GZIP, deflated(packed, BITS_GZIP, text, 0), 0);
    expect_text(ENCODING_DEFLATE, deflated(packed, BITS_ZLIB, text, 0), 0);
    expect_text(ENCODING_DEFLATE, deflated(packed, BITS_RAW, text, 0), 0);
    expect_text(ENCODING_ZSTD, zstd_packed(packed, 0, text, 0), 0);
}

Test(decoder, members_and_frames_follow_each_other)
{
    size_t half = TEXT_BYTES / 2, n;

    n = deflated(packed, BITS_GZIP, text, half);
    n += deflated(packed + n, BITS_GZIP, text, 0);
    n += deflated(packed + n, BITS_GZIP, text + half, TEXT_BYTES - half);
    expect_text(ENCODING_GZIP, n, TEXT_BYTES);
    n = zstd_packed(packed, 0, text, half);
    memcpy(packed + n, "\x5A\x2A\x4D\x18\3\0\0\0abc", 11); /* to be skipped */
    n += 11;
    n += zstd_packed(packed + n, 0, text + half, TEXT_BYTES - half);
    expect_text(ENCODING_ZSTD, n, TEXT_BYTES);
}

/* Every place where a body may be cut. */
static void expect_cut(enum body_encoding encoding, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        cr_assert_eq(decode(encoding, i), DRV_EINVAL, "%s: %zu of %zu bytes",
                     encoding_name(encoding), i, n);
        cr_assert(strstr(err.text, "it is cut off") != NULL, "%s", err.text);
    }
}

Test(decoder, a_body_that_is_cut_anywhere_is_refused)
{
    expect_cut(ENCODING_GZIP, deflated(packed, BITS_GZIP, text, 600));
    expect_cut(ENCODING_DEFLATE, deflated(packed, BITS_ZLIB, text, 600));
    expect_cut(ENCODING_DEFLATE, deflated(packed, BITS_RAW, text, 600));
    expect_cut(ENCODING_ZSTD, zstd_packed(packed, 0, text, 600));
}

Test(decoder, bytes_behind_the_end_are_refused)
{
    static const char *const tails[] = {"x", "\n", "{\"model\":\"other\"}", "\x1f\x8c",
                                        "\x28\xb6"};
    size_t n;

    for (size_t i = 0; i < ARRAY_LEN(tails); i++) {
        size_t more = strlen(tails[i]);

        n = deflated(packed, BITS_GZIP, text, 600);
        memcpy(packed + n, tails[i], more);
        expect_bad(ENCODING_GZIP, n + more, "there are bytes behind its end");
        n = deflated(packed, BITS_ZLIB, text, 600);
        memcpy(packed + n, tails[i], more);
        expect_bad(ENCODING_DEFLATE, n + more, "there are bytes behind its end");
        n = deflated(packed, BITS_RAW, text, 600);
        memcpy(packed + n, tails[i], more);
        expect_bad(ENCODING_DEFLATE, n + more, "there are bytes behind its end");
        n = zstd_packed(packed, 0, text, 600);
        memcpy(packed + n, tails[i], more);
        expect_bad(ENCODING_ZSTD, n + more, "there are bytes behind its end");
    }
    n = deflated(packed, BITS_ZLIB, text, 600);
    n += deflated(packed + n, BITS_ZLIB, text, 600);
    expect_bad(ENCODING_DEFLATE, n, "there are bytes behind its end");
}

Test(decoder, damaged_data_are_refused_in_words)
{
    size_t n = deflated(packed, BITS_GZIP, text, 600);

    packed[n - 8] ^= 1;
    expect_bad(ENCODING_GZIP, n, "not valid gzip: incorrect data check");
    n = deflated(packed, BITS_ZLIB, text, 600);
    packed[n - 1] ^= 1;
    expect_bad(ENCODING_DEFLATE, n, "not valid deflate: incorrect data check");
    n = zstd_packed(packed, 0, text, 600);
    packed[n - 1] ^= 1;
    expect_bad(ENCODING_ZSTD, n, "not valid zstd: Restored data doesn't match checksum");
    memcpy(packed, "{\"model\":\"m\"}", 13);
    expect_bad(ENCODING_GZIP, 13, "not valid gzip: incorrect header check");
    expect_bad(ENCODING_ZSTD, 13, "not valid zstd: it does not begin like that");
    /* libzstd itself would take its old formats. */
    memcpy(packed, "\x27\xB5\x2F\xFD\0\0\0\0\0\0", 10);
    expect_bad(ENCODING_ZSTD, 10, "not valid zstd: it does not begin like that");
    memcpy(packed, "\x78\xBB\0\0\0\0\0\0", 8); /* a zlib head that names a dictionary */
    expect_bad(ENCODING_DEFLATE, 8, "it needs a dictionary");
    memcpy(packed, "\x28\xB5\x2F\xFD\x21\x07\x00\x09\0\0a", 11); /* dictionary 7 */
    expect_bad(ENCODING_ZSTD, 11, "it needs a dictionary");
}

Test(decoder, the_window_of_zstd_has_a_limit_and_so_has_its_memory)
{
    struct decoder *d = decoder_create(ENCODING_ZSTD);
    struct decoder_io io = {packed, zstd_packed(packed, 23, text, TEXT_BYTES), out,
                            sizeof(out)};

    cr_assert_eq(decoder_feed(d, &io, &err), 0, "%s", err.text);
    cr_expect_eq(decoder_end(d, &err), 0);
    cr_expect_gt(decoder_memory(d), (size_t)8 << 20, "a window of 8 MiB is counted");
    cr_expect_lt(decoder_memory(d), (size_t)9 << 20);
    decoder_destroy(d);
    cr_expect_eq(decode(ENCODING_ZSTD, zstd_packed(packed, 24, text, TEXT_BYTES)), DRV_ETOOBIG);
    cr_expect_str_eq(err.text, "the request body is zstd with a window of more than 8 MiB");
}

/* The caller limits the output: a bomb goes no further than it has room. */
Test(decoder, a_bomb_waits_for_room)
{
    static uint8_t zeros[1 << 20];
    enum body_encoding encodings[] = {ENCODING_GZIP, ENCODING_ZSTD};

    for (size_t i = 0; i < ARRAY_LEN(encodings); i++) {
        struct decoder *d = decoder_create(encodings[i]);
        size_t n = encodings[i] == ENCODING_GZIP
                       ? deflated(packed, BITS_GZIP, zeros, sizeof(zeros))
                       : zstd_packed(packed, 0, zeros, sizeof(zeros));
        struct decoder_io io = {packed, n, out, 1000};

        for (size_t turns = 0; turns < 20; turns++) {
            io.out = out;
            io.out_left = 1000;
            cr_assert_eq(decoder_feed(d, &io, &err), 0);
            cr_assert_eq(io.out_left, 0);
        }
        cr_expect_eq(decoder_end(d, &err), DRV_EINVAL);
        decoder_destroy(d);
    }
}

static enum body_encoding parse(const char *value)
{
    return encoding_parse(ENCODING_IDENTITY, value, strlen(value));
}

Test(decoder, the_header_is_a_list_of_names_in_any_letters)
{
    cr_expect_eq(parse(""), ENCODING_IDENTITY);
    cr_expect_eq(parse("identity"), ENCODING_IDENTITY);
    cr_expect_eq(parse("gzip"), ENCODING_GZIP);
    cr_expect_eq(parse("X-GZip"), ENCODING_GZIP);
    cr_expect_eq(parse(" Deflate\t"), ENCODING_DEFLATE);
    cr_expect_eq(parse("ZSTD"), ENCODING_ZSTD);
    cr_expect_eq(parse("identity, ,zstd,"), ENCODING_ZSTD);
    cr_expect_eq(parse("br"), ENCODING_OTHER);
    cr_expect_eq(parse("gzipx"), ENCODING_OTHER);
    cr_expect_eq(parse("gzip;q=1"), ENCODING_OTHER);
    cr_expect_eq(parse("gzip, gzip"), ENCODING_OTHER, "one at a time");
    cr_expect_eq(parse("gzip, identity, zstd"), ENCODING_OTHER);
    cr_expect_eq(encoding_parse(ENCODING_GZIP, "identity", 8), ENCODING_GZIP);
    cr_expect_eq(encoding_parse(ENCODING_GZIP, "gzip", 4), ENCODING_OTHER);
}

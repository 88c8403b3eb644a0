/* decoder.c - takes the content coding off a body, piece by piece: gzip, deflate, zstd. */
#include "worker/encoding/decoder.h"

#include <assert.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/error.h"

/* For inflateInit2(): the largest window, and by what it is wrapped. */
#define BITS_ZLIB 15
#define BITS_RAW  (-15)
#define BITS_GZIP (15 + 16)
/* zlib takes for one stream: the window, and 7 KiB. */
#define INFLATE_BYTES ((size_t)40 * 1024)

#define ZSTD_WINDOW_LOG_MAX 23
#define ZSTD_MAGIC_BYTES    4

struct decoder {
    enum body_encoding encoding;
    bool started;                   /* `inflate` is set up */
    bool complete;                  /* the data may end here */
    unsigned ends;                  /* members or frames that are over; counted up to 1 */
    uint8_t head[ZSTD_MAGIC_BYTES]; /* the first bytes, which say what it is */
    size_t head_len;
    size_t head_read; /* of those, what zlib has had */
    z_stream inflate; /* gzip and deflate */
    ZSTD_DStream *zstd;
};

/* ---- names ------------------------------------------------------------------------------- */

static bool is_token(const char *text, size_t n, const char *name)
{
    return n == strlen(name) && strncasecmp(text, name, n) == 0;
}

static enum body_encoding encoding_of(const char *text, size_t n)
{
    if (n == 0 || is_token(text, n, "identity"))
        return ENCODING_IDENTITY;
    if (is_token(text, n, "gzip") || is_token(text, n, "x-gzip"))
        return ENCODING_GZIP;
    if (is_token(text, n, "deflate"))
        return ENCODING_DEFLATE;
    if (is_token(text, n, "zstd"))
        return ENCODING_ZSTD;
    return ENCODING_OTHER;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

enum body_encoding encoding_parse(enum body_encoding before, const char *value, size_t n)
{
    for (size_t i = 0, end; i <= n; i = end + 1) {
        const char *comma = memchr(value + i, ',', n - i);
        enum body_encoding one;
        size_t last;

        end = comma == NULL ? n : (size_t)(comma - value);
        for (last = end; last > i && is_blank(value[last - 1]);)
            last--;
        while (i < last && is_blank(value[i]))
            i++;
        one = encoding_of(value + i, last - i);
        if (one == ENCODING_IDENTITY)
            continue;
        before = before == ENCODING_IDENTITY ? one : ENCODING_OTHER;
    }
    return before;
}

const char *encoding_name(enum body_encoding encoding)
{
    switch (encoding) {
    case ENCODING_IDENTITY:
        return "identity";
    case ENCODING_GZIP:
        return "gzip";
    case ENCODING_DEFLATE:
        return "deflate";
    case ENCODING_ZSTD:
        return "zstd";
    case ENCODING_OTHER:
        break;
    }
    return "other";
}

/* ---- errors ------------------------------------------------------------------------------ */

static int damaged(const struct decoder *d, struct error *err, const char *why)
{
    return error_set(err, DRV_EINVAL, "the request body is not valid %s: %s",
                     encoding_name(d->encoding), why);
}

static int trailing(const struct decoder *d, struct error *err)
{
    return damaged(d, err, "there are bytes behind its end");
}

/* ---- gzip and deflate -------------------------------------------------------------------- */

static bool is_zlib_head(const uint8_t *head)
{
    return (head[0] & 0x0F) == Z_DEFLATED && head[0] >> 4 <= 7 &&
           (head[0] * 256 + head[1]) % 31 == 0;
}

/* The first two bytes show whether it is wrapped; no encoder begins a bare stream
 * as a wrapped one begins. */
static int start_deflate(struct decoder *d, struct decoder_io *io)
{
    while (d->head_len < 2 && io->in_left > 0) {
        d->head[d->head_len++] = *io->in++;
        io->in_left--;
    }
    if (d->head_len < 2)
        return 0;
    if (inflateInit2(&d->inflate, is_zlib_head(d->head) ? BITS_ZLIB : BITS_RAW) != Z_OK)
        return DRV_ENOMEM;
    d->started = true;
    return 0;
}

static uInt at_most(size_t n)
{
    return n > INT_MAX ? INT_MAX : (uInt)n;
}

/* One call of zlib's. */
static int inflate_some(struct decoder *d, struct decoder_io *io)
{
    z_stream *z = &d->inflate;
    bool from_head = d->head_read < d->head_len;
    const uint8_t *in = from_head ? d->head + d->head_read : io->in;
    uInt in_len = from_head ? (uInt)(d->head_len - d->head_read) : at_most(io->in_left);
    uInt out_len = at_most(io->out_left), used;
    int rc;

    z->next_in = (Bytef *)(uintptr_t)in;
    z->avail_in = in_len;
    z->next_out = io->out;
    z->avail_out = out_len;
    rc = inflate(z, Z_NO_FLUSH);
    used = in_len - z->avail_in;
    if (from_head) {
        d->head_read += used;
    } else {
        io->in += used;
        io->in_left -= used;
    }
    io->out += out_len - z->avail_out;
    io->out_left -= out_len - z->avail_out;
    return rc;
}

static bool has_input(const struct decoder *d, const struct decoder_io *io)
{
    return d->head_read < d->head_len || io->in_left > 0;
}

/* Something is behind the end of a member: another one? */
static int next_member(struct decoder *d, const struct decoder_io *io, struct error *err)
{
    if (d->encoding != ENCODING_GZIP || io->in[0] != 0x1F)
        return trailing(d, err);
    d->complete = false;
    return inflateReset(&d->inflate) == Z_OK ? 0 : DRV_ENOMEM;
}

static int feed_inflate(struct decoder *d, struct decoder_io *io, struct error *err)
{
    int rc = d->started ? 0 : start_deflate(d, io);

    if (rc != 0 || !d->started)
        return rc;
    while (io->out_left > 0) {
        if (d->complete) {
            if (!has_input(d, io))
                return 0;
            rc = next_member(d, io, err);
            if (rc != 0)
                return rc;
        }
        switch (inflate_some(d, io)) {
        case Z_OK:
            break;
        case Z_STREAM_END:
            d->complete = true;
            d->ends = 1;
            break;
        case Z_BUF_ERROR: /* all is read and written */
            return 0;
        case Z_NEED_DICT:
            return damaged(d, err, "it needs a dictionary");
        case Z_MEM_ERROR:
            return DRV_ENOMEM;
        default:
            if (d->ends != 0 && d->inflate.total_out == 0 && d->inflate.total_in <= 2)
                return trailing(d, err);
            return damaged(d, err, d->inflate.msg == NULL ? "damaged" : d->inflate.msg);
        }
    }
    return 0;
}

/* ---- zstd -------------------------------------------------------------------------------- */

/* Frames, and those to be skipped, begin so.  libzstd would take older formats, too. */
static bool is_magic(const uint8_t *head, size_t n)
{
    static const uint8_t frame[] = {0x28, 0xB5, 0x2F, 0xFD}, skipped[] = {0, 0x2A, 0x4D, 0x18};

    if (head[0] >> 4 == 5)
        return memcmp(head + 1, skipped + 1, n - 1) == 0;
    return memcmp(head, frame, n) == 0;
}

static int zstd_error(const struct decoder *d, size_t code, struct error *err)
{
    switch ((unsigned)ZSTD_getErrorCode(code)) {
    case ZSTD_error_memory_allocation:
        return DRV_ENOMEM;
    case ZSTD_error_frameParameter_windowTooLarge:
        return error_set(err, DRV_ETOOBIG,
                         "the request body is zstd with a window of more than %u MiB",
                         1u << (ZSTD_WINDOW_LOG_MAX - 20));
    case ZSTD_error_dictionary_wrong:
        return damaged(d, err, "it needs a dictionary");
    default:
        return damaged(d, err, ZSTD_getErrorName(code));
    }
}

static int feed_zstd(struct decoder *d, struct decoder_io *io, struct error *err)
{
    while (io->out_left > 0) {
        ZSTD_outBuffer out = {io->out, io->out_left, 0};
        ZSTD_inBuffer in = {io->in, io->in_left, 0};
        size_t rc;

        if (d->complete && io->in_left == 0)
            return 0;
        if (d->complete)
            d->head_len = 0;
        if (d->head_len < ZSTD_MAGIC_BYTES && io->in_left > 0) {
            d->head[d->head_len++] = io->in[0];
            if (!is_magic(d->head, d->head_len))
                return d->ends != 0 ? trailing(d, err)
                                    : damaged(d, err, "it does not begin like that");
            in.size = 1;
        }
        rc = ZSTD_decompressStream(d->zstd, &out, &in);
        if (ZSTD_isError(rc))
            return zstd_error(d, rc, err);
        io->in += in.pos;
        io->in_left -= in.pos;
        io->out += out.pos;
        io->out_left -= out.pos;
        d->complete = rc == 0;
        if (d->complete)
            d->ends = 1;
        else if (in.pos == 0 && out.pos == 0)
            return 0; /* all is read and written */
    }
    return 0;
}

/* ---- all --------------------------------------------------------------------------------- */

struct decoder *decoder_create(enum body_encoding encoding)
{
    struct decoder *d = calloc(1, sizeof(*d));
    bool ok = d != NULL;

    if (!ok)
        return NULL;
    d->encoding = encoding;
    if (encoding == ENCODING_GZIP) {
        ok = inflateInit2(&d->inflate, BITS_GZIP) == Z_OK;
        d->started = ok;
    } else if (encoding == ENCODING_ZSTD) {
        d->zstd = ZSTD_createDStream();
        ok = d->zstd != NULL && !ZSTD_isError(ZSTD_DCtx_setParameter(
                                    d->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX));
    }
    if (ok)
        return d;
    decoder_destroy(d);
    return NULL;
}

void decoder_destroy(struct decoder *d)
{
    if (d == NULL)
        return;
    if (d->started)
        (void)inflateEnd(&d->inflate);
    (void)ZSTD_freeDStream(d->zstd);
    free(d);
}

size_t decoder_memory(const struct decoder *d)
{
    return sizeof(*d) + (d->zstd != NULL ? ZSTD_sizeof_DStream(d->zstd) : INFLATE_BYTES);
}

int decoder_feed(struct decoder *d, struct decoder_io *io, struct error *err)
{
    int rc = d->zstd != NULL ? feed_zstd(d, io, err) : feed_inflate(d, io, err);

    if (rc == DRV_ENOMEM)
        return error_set(err, rc, "out of memory");
    return rc;
}

int decoder_end(const struct decoder *d, struct error *err)
{
    return d->complete ? 0 : damaged(d, err, "it is cut off");
}

/* frame.c - cuts a gRPC byte stream into messages. */
#include "proto/rpc/frame.h"

#include <string.h>

/* The buffer of a message that comes in pieces is at once so many times as large as its first
 * piece, if the message is: what grows by doubling is copied twice. */
#define EXPECT_TIMES 16

/* Memory that a reader keeps between split messages; there are thousands of readers. */
#define KEEP_BYTES 8192

void frame_reader_init(struct frame_reader *reader, size_t max_bytes)
{
    memset(reader, 0, sizeof(*reader));
    reader->max_bytes = max_bytes;
}

void frame_reader_finish(struct frame_reader *reader)
{
    buf_finish(&reader->partial);
    reader->prefix_len = 0;
}

static enum frame_result read_prefix(struct frame_reader *reader, const uint8_t **in, size_t *n)
{
    size_t take = sizeof(reader->prefix) - reader->prefix_len;

    if (take > *n)
        take = *n;
    memcpy(reader->prefix + reader->prefix_len, *in, take);
    reader->prefix_len = (uint8_t)(reader->prefix_len + take);
    *in += take;
    *n -= take;
    if (reader->prefix_len < sizeof(reader->prefix))
        return FRAME_MORE;
    reader->want = (uint32_t)reader->prefix[1] << 24 | (uint32_t)reader->prefix[2] << 16 |
                   (uint32_t)reader->prefix[3] << 8 | (uint32_t)reader->prefix[4];
    if (reader->prefix[0] > 1)
        return FRAME_BAD_FLAG;
    if (reader->prefix[0] == 1)
        return FRAME_COMPRESSED;
    return reader->want > reader->max_bytes ? FRAME_TOO_BIG : FRAME_MESSAGE;
}

static size_t expected(uint32_t want, size_t first)
{
    return want / EXPECT_TIMES < first ? want : first * EXPECT_TIMES;
}

enum frame_result frame_read(struct frame_reader *reader, const uint8_t **in, size_t *n,
                             const uint8_t **msg, size_t *msg_len)
{
    size_t have, take;

    if (reader->prefix_len < sizeof(reader->prefix)) {
        enum frame_result result;

        frame_reader_trim(reader);
        if (*n == 0)
            return FRAME_MORE;
        result = read_prefix(reader, in, n);
        if (result != FRAME_MESSAGE)
            return result;
    }
    have = buf_size(&reader->partial);
    if (have == 0 && *n >= reader->want) {
        *msg = *in;
        *msg_len = reader->want;
        *in += reader->want;
        *n -= reader->want;
        reader->prefix_len = 0;
        return FRAME_MESSAGE;
    }
    take = reader->want - have;
    if (take > *n)
        take = *n;
    if (have == 0 && take != 0 &&
        buf_reserve(&reader->partial, expected(reader->want, take)) == NULL)
        return FRAME_NO_MEMORY;
    buf_add(&reader->partial, *in, take);
    if (reader->partial.failed)
        return FRAME_NO_MEMORY;
    *in += take;
    *n -= take;
    if (have + take < reader->want)
        return FRAME_MORE;
    *msg = buf_head(&reader->partial);
    *msg_len = reader->want;
    reader->prefix_len = 0;
    return FRAME_MESSAGE;
}

void frame_reader_trim(struct frame_reader *reader)
{
    if (reader->prefix_len == 0 && reader->partial.cap != 0)
        buf_shrink(&reader->partial, KEEP_BYTES);
}

int frame_reader_partial(const struct frame_reader *reader)
{
    return reader->prefix_len != 0;
}

void frame_prefix(uint8_t out[5], uint32_t n)
{
    out[0] = 0;
    out[1] = (uint8_t)(n >> 24);
    out[2] = (uint8_t)(n >> 16);
    out[3] = (uint8_t)(n >> 8);
    out[4] = (uint8_t)n;
}

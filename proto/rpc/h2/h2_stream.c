/*
 * h2_stream.c - one stream of a session: its send queue, its receive window, its messages.
 *
 * Receive window.  The connection's window opens at once for every byte, so that no stream can
 * stall another.  A stream's own window opens at once too, unless it is `manual`: then the five
 * bytes before each message open it soon and the message's bytes when their owner has
 * disposed of them.  One exception keeps a message larger than the window from blocking itself:
 * while the owner holds little, the buffered bytes of an incomplete message are given back
 * in advance (`prepaid`) and deducted from the release that follows.
 */
#include "proto/rpc/h2/h2_session_private.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"

#define KEEP_BYTES 4096 /* of an empty send queue: thousands of streams stay open for long */

void h2_stream_init(struct h2_stream *stream, size_t max_message_bytes,
                    void (*free_fn)(struct h2_stream *stream))
{
    memset(stream, 0, sizeof(*stream));
    stream->free = free_fn;
    frame_reader_init(&stream->reader, max_message_bytes);
}

void h2_stream_finish(struct h2_stream *stream)
{
    assert(stream->session == NULL);
    frame_reader_finish(&stream->reader);
    buf_finish(&stream->out);
}

void h2_stream_free_later(struct h2_guard *guard, struct h2_stream *stream)
{
    assert(stream->session == NULL);
    stream->over = true;
    if (guard->depth == 0) {
        stream->free(stream);
        return;
    }
    SLIST_INSERT_HEAD(&guard->streams, stream, dead);
}

/* ---- sending -------------------------------------------------------------------------- */

uint8_t *h2_stream_add_space(struct h2_stream *stream, size_t n)
{
    uint8_t *to;

    if (n > UINT32_MAX)
        return NULL;
    to = buf_reserve(&stream->out, n + 5);
    if (to == NULL) {
        stream->out.failed = false; /* queued messages are whole; only this one is lost */
        return NULL;
    }
    frame_prefix(to, (uint32_t)n);
    stream->out.len += n + 5;
    if (buf_size(&stream->out) >= H2_WRITABLE_BYTES)
        stream->full = true;
    return to + 5;
}

void h2_stream_kick(struct h2_stream *stream)
{
    struct h2_session *session = stream->session;

    if (session == NULL || session->phase == H2_DEAD)
        return;
    if (stream->waiting) {
        stream->waiting = false;
        (void)nghttp2_session_resume_data(session->h2, stream->id);
    }
    h2_session_flush_later(session);
}

void h2_stream_reset(struct h2_stream *stream, uint32_t h2_error_code)
{
    struct h2_session *session = stream->session;

    if (session == NULL || session->phase == H2_DEAD || stream->reset)
        return;
    stream->reset = true;
    (void)nghttp2_submit_rst_stream(session->h2, NGHTTP2_FLAG_NONE, stream->id, h2_error_code);
    h2_session_flush_later(session);
}

void h2_stream_lend(struct h2_stream *stream, uint8_t tag, const uint8_t *bytes, size_t n,
                    size_t part_bytes)
{
    assert(part_bytes != 0 && part_bytes <= UINT32_MAX / 2 && stream->lent.left == 0);
    stream->lent =
        (struct h2_lent){.at = bytes, .left = n, .part_bytes = part_bytes, .tag = tag};
}

void h2_stream_unlend(struct h2_stream *stream)
{
    stream->lent =
        (struct h2_lent){.recalled = stream->lent.recalled || stream->lent.left != 0};
}

/* The bytes before the next part: the message's prefix, the field's tag and its length. */
static void begin_part(struct h2_lent *lent)
{
    size_t n = lent->left < lent->part_bytes ? lent->left : lent->part_bytes, rest = n;
    uint8_t *to = lent->head + 5;

    *to++ = lent->tag;
    for (; rest >= 0x80; rest >>= 7)
        *to++ = (uint8_t)(rest | 0x80);
    *to++ = (uint8_t)rest;
    lent->head_len = (uint8_t)(to - lent->head);
    lent->head_off = 0;
    frame_prefix(lent->head, (uint32_t)(n + lent->head_len - 5));
    lent->part_left = n;
}

static size_t read_lent(struct h2_lent *lent, uint8_t *to, size_t n)
{
    size_t done = 0, take;

    while (done < n && lent->left != 0) {
        if (lent->part_left == 0)
            begin_part(lent);
        take = (size_t)(lent->head_len - lent->head_off);
        if (take > n - done)
            take = n - done;
        memcpy(to + done, lent->head + lent->head_off, take);
        lent->head_off = (uint8_t)(lent->head_off + take);
        done += take;
        take = lent->part_left < n - done ? lent->part_left : n - done;
        memcpy(to + done, lent->at, take);
        lent->at += take;
        lent->left -= take;
        lent->part_left -= take;
        done += take;
    }
    return done;
}

/* Takes up to n bytes of what the stream has to send. */
static size_t take_out(struct h2_stream *stream, uint8_t *to, size_t n)
{
    size_t have = buf_size(&stream->out), done = n < have ? n : have;

    if (done != 0) {
        memcpy(to, buf_head(&stream->out), done);
        buf_consume(&stream->out, done);
    }
    if (stream->lent.left != 0)
        done += read_lent(&stream->lent, to + done, n - done);
    return done;
}

static ssize_t read_out(nghttp2_session *h2, int32_t id, uint8_t *to, size_t n, uint32_t *flags,
                        nghttp2_data_source *source, void *user_data)
{
    struct h2_stream *stream = source->ptr;
    struct h2_session *session = user_data;
    bool last;

    (void)h2;
    (void)id;
    n = take_out(stream, to, n);
    last = buf_size(&stream->out) == 0 && stream->lent.left == 0;
    if (n == 0 && last && (!stream->eof || stream->lent.recalled)) {
        stream->waiting = true;
        return NGHTTP2_ERR_DEFERRED;
    }
    session->flood.useful_bytes += n;
    if (last && !stream->lent.recalled) {
        buf_shrink(&stream->out, stream->eof ? 0 : KEEP_BYTES);
        if (stream->eof) {
            *flags |= NGHTTP2_DATA_FLAG_EOF;
            if (session->role->on_drained(stream))
                *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
        }
    }
    if (stream->full && buf_size(&stream->out) < H2_WRITABLE_BYTES && !stream->over) {
        stream->full = false;
        if (!stream->in_writable) {
            stream->in_writable = true;
            LIST_INSERT_HEAD(&session->writable, stream, writable);
        }
    }
    return (ssize_t)n;
}

nghttp2_data_provider h2_stream_provider(struct h2_stream *stream)
{
    return (nghttp2_data_provider){.source = {.ptr = stream}, .read_callback = read_out};
}

/* ---- receiving ------------------------------------------------------------------------ */

/* Bytes that may stay unreleased without stalling a message larger than the window. */
#define FEW_BYTES (32 * 1024)

static void open_window(struct h2_stream *stream, size_t n)
{
    struct h2_session *session = stream->session;

    if (n != 0 && session != NULL && session->phase != H2_DEAD) {
        (void)nghttp2_session_consume_stream(session->h2, stream->id, n);
        h2_session_flush_later(session);
    }
}

/* Gives back the buffered bytes of an incomplete message, if nothing else is sure to open the
 * window: an owner may keep a few delivered bytes to save calls. */
static void prepay(struct h2_stream *stream)
{
    size_t buffered = buf_size(&stream->reader.partial);

    if (stream->unreleased >= FEW_BYTES || !frame_reader_partial(&stream->reader) ||
        stream->reader.prefix_len < sizeof(stream->reader.prefix) ||
        buffered <= stream->prepaid)
        return;
    open_window(stream, buffered - stream->prepaid);
    stream->prepaid = buffered;
}

void h2_stream_release(struct h2_stream *stream, size_t n)
{
    size_t advance;

    if (!stream->manual || stream->over)
        return;
    if (n > stream->unreleased)
        n = stream->unreleased;
    stream->unreleased -= n;
    advance = n < stream->prepaid ? n : stream->prepaid;
    stream->prepaid -= advance;
    open_window(stream, n - advance);
    prepay(stream);
}

/* Bytes of message, not of prefix, that the reader holds. */
static size_t buffered_bytes(const struct h2_stream *stream)
{
    return stream->reader.prefix_len == sizeof(stream->reader.prefix)
               ? buf_size(&stream->reader.partial)
               : 0;
}

bool h2_stream_charge(struct h2_stream *stream)
{
    struct h2_guard *guard = stream->session->guard;
    size_t now = buffered_bytes(stream) + stream->held_bytes;
    bool more = now > stream->charged;

    guard->buffered_bytes += now - stream->charged;
    stream->charged = now;
    return !more || guard->max_buffered_bytes == 0 ||
           guard->buffered_bytes <= guard->max_buffered_bytes;
}

static void note_batch(struct h2_session *session, struct h2_stream *stream)
{
    if (stream->in_batch)
        return;
    stream->in_batch = true;
    STAILQ_INSERT_TAIL(&session->batch, stream, batched);
}

int h2_stream_data(struct h2_stream *stream, const uint8_t *bytes, size_t n)
{
    struct h2_session *session = stream->session;
    size_t total = n, before = buffered_bytes(stream), payload = 0;

    if (!stream->manual || stream->over)
        (void)nghttp2_session_consume_stream(session->h2, stream->id, n);
    while (n != 0 && !stream->over) {
        const uint8_t *message = NULL;
        size_t len = 0;
        enum frame_result result = frame_read(&stream->reader, &bytes, &n, &message, &len);

        if (result == FRAME_MORE)
            break;
        if (result != FRAME_MESSAGE) {
            session->role->on_fault(stream, H2_FAULT_FRAME, result);
            break;
        }
        payload += len;
        if (stream->manual)
            stream->unreleased += len;
        note_batch(session, stream);
        session->role->on_message(stream, message, len);
    }
    frame_reader_trim(&stream->reader);
    if (session->phase == H2_DEAD)
        return NGHTTP2_ERR_CALLBACK_FAILURE;
    if (!stream->over && !h2_stream_charge(stream))
        session->role->on_fault(stream, H2_FAULT_FRAME, FRAME_NO_MEMORY);
    if (stream->manual && !stream->over) {
        payload += buffered_bytes(stream);
        /* The rest, neither message nor left over from before, is prefix.  A look-up in nghttp2
         * for five bytes a message is not worth it. */
        stream->unopened += total + before - payload;
        if (stream->unopened >= FEW_BYTES / 8) {
            open_window(stream, stream->unopened);
            stream->unopened = 0;
        }
        prepay(stream);
    }
    return 0;
}

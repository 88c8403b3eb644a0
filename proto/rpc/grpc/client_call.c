/*
 * client_call.c - the half of client.h that is one call: its request, its response, its end.
 *
 * A call is waiting (in its channel), then on a session, then over.  The user hears of the end
 * once; the object lives on while nghttp2 still knows its stream, so that the count of open
 * streams is the peer's count.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/text/text.h"
#include "proto/rpc/grpc/client_private.h"
#include "proto/rpc/grpc/fields.h"

#define USER_AGENT "grpc-c-drover/" DROVER_VERSION

static struct call *call_of(struct h2_stream *stream)
{
    return CONTAINER_OF(stream, struct call, stream);
}

static void free_call(struct h2_stream *stream)
{
    struct call *call = call_of(stream);

    h2_stream_finish(stream);
    buf_finish(&call->head);
    buf_finish(&call->message);
    free(call);
}

/* ---- the end -------------------------------------------------------------------------- */

/* From here on no callback runs, and the object is freed as soon as nghttp2 allows. */
static void let_go(struct call *call)
{
    struct channel *channel = call->channel;

    call->stream.over = true;
    h2_stream_unlend(&call->stream);
    timer_stop(channel->loop, &call->deadline);
    if (call->waiting)
        channel_unlink_waiting(channel, call);
    if (call->stream.session == NULL)
        return;
    /* A response that is whole needs no more of the request; anything else is a cancellation.
     */
    if (!call->stream.remote_end)
        h2_stream_reset(&call->stream, NGHTTP2_CANCEL);
    else if (!call->stream.local_end)
        h2_stream_reset(&call->stream, NGHTTP2_NO_ERROR);
}

void call_drop(struct call *call)
{
    let_go(call);
    if (call->stream.session == NULL)
        h2_stream_free_later(&call->channel->guard, &call->stream);
}

/* Text from the peer, for logs and clients: UTF-8 without NUL, or else ASCII. */
static const char *readable(struct buf *text)
{
    size_t i, n = buf_size(text);
    uint8_t *p;

    if (text->failed || n == 0)
        return "";
    p = buf_head(text);
    if (!text_is_utf8(p, n))
        for (i = 0; i < n; i++)
            if (p[i] == 0 || p[i] >= 0x80)
                p[i] = '?';
    return buf_cstr(text);
}

/* Must run within the channel's guard.  Buries the call unless its session still will. */
void call_end(struct call *call, enum grpc_status status, enum call_end end, const char *text)
{
    struct call_result result = {status, end, text, call->pushback_ms};
    struct channel *channel = call->channel;
    bool loose;

    assert(channel->guard.depth != 0);
    if (call->stream.over)
        return;
    if (call->stream.in_batch) {
        call->stream.in_batch = false;
        if (call->handler.on_batch != NULL)
            call->handler.on_batch(call, call->data);
        if (call->stream.over)
            return;
        if (channel->guard.doomed) {
            call_drop(call);
            return;
        }
    }
    let_go(call);
    loose = call->stream.session == NULL;
    if (call->handler.on_end != NULL)
        call->handler.on_end(call, &result, call->data);
    if (loose)
        h2_stream_free_later(&channel->guard, &call->stream);
}

static bool past_due(const struct call *call)
{
    return call->due_mono_us != 0 && clock_mono_us() >= call->due_mono_us;
}

static void end_by_deadline(struct call *call)
{
    call_end(call, GRPC_DEADLINE_EXCEEDED, CALL_END_DEADLINE, "deadline exceeded");
}

static void on_deadline(struct timer *timer)
{
    struct call *call = CONTAINER_OF(timer, struct call, deadline);
    struct h2_guard *guard = &call->channel->guard;

    h2_guard_enter(guard);
    end_by_deadline(call);
    h2_guard_leave(guard);
}

/* ---- the request ---------------------------------------------------------------------- */

/* call->head is the path, NUL, and the packed metadata. */
static int pack_head(struct call *call, const struct call_options *options)
{
    size_t i;

    buf_add(&call->head, options->path, strlen(options->path) + 1);
    for (i = 0; i < options->metadata_count; i++) {
        const struct call_metadata *field = &options->metadata[i];
        int rc = fields_pack(&call->head, field->name, field->value, field->len);

        if (rc != 0)
            return rc;
    }
    return call->head.failed ? DRV_ENOMEM : 0;
}

int call_start(struct call **out, struct channel *channel, const struct call_options *options,
               const struct call_handler *handler, void *data, struct error *err)
{
    struct call *call;
    int rc;

    *out = NULL;
    if (options->metadata_count > FIELDS_MAX_CUSTOM)
        return error_set(err, DRV_EINVAL, "more than %d metadata fields", FIELDS_MAX_CUSTOM);
    call = calloc(1, sizeof(*call));
    if (call == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    h2_stream_init(&call->stream,
                   options->max_message_bytes != 0 ? options->max_message_bytes
                                                   : channel->config.max_message_bytes,
                   free_call);
    rc = pack_head(call, options);
    if (rc != 0) {
        free_call(&call->stream);
        return error_set(err, rc, rc == DRV_EINVAL ? "bad metadata" : "out of memory");
    }
    call->stream.manual = options->manual_window;
    call->channel = channel;
    call->handler = *handler;
    call->data = data;
    call->wait_for_ready = options->wait_for_ready;
    call->unary = options->unary;
    call->pushback_ms = -2;
    if (options->timeout_us != 0) {
        call->due_mono_us = clock_mono_us() + options->timeout_us;
        timer_start(channel->loop, &call->deadline, options->timeout_us, on_deadline);
    }
    channel_add_waiting(channel, call);
    *out = call;
    return 0;
}

bool call_submit(struct call *call, struct h2_session *session)
{
    nghttp2_nv fields[10 + FIELDS_MAX_CUSTOM];
    nghttp2_data_provider provider = h2_stream_provider(&call->stream);
    char timeout[GRPC_TIMEOUT_TEXT_BYTES];
    const char *path = (const char *)buf_head(&call->head);
    size_t path_len = strlen(path) + 1, n = 0;
    int32_t id;

    if (past_due(call)) {
        end_by_deadline(call);
        return true;
    }
    fields[n++] = field_of(":method", "POST");
    fields[n++] = field_of(":scheme", session->tls != NULL ? "https" : "http");
    fields[n++] = field_of(":path", path);
    fields[n++] = field_of(":authority", call->channel->authority);
    if (call->due_mono_us != 0) {
        grpc_timeout_encode(timeout, call->due_mono_us - clock_mono_us());
        fields[n++] = field_of("grpc-timeout", timeout);
    }
    fields[n++] = field_of("te", "trailers");
    fields[n++] = field_of("content-type", "application/grpc");
    fields[n++] = field_of("user-agent", USER_AGENT);
    fields[n++] = field_of("grpc-accept-encoding", "identity");
    n += fields_unpack(fields + n, path + path_len, buf_size(&call->head) - path_len);
    id = nghttp2_submit_request(session->h2, NULL, fields, n, &provider, &call->stream);
    if (id == NGHTTP2_ERR_NOMEM) {
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CALL_END_LOCAL, "out of memory");
        return true;
    }
    if (id < 0)
        return false;
    channel_unlink_waiting(call->channel, call);
    buf_finish(&call->head);
    h2_session_attach(session, &call->stream, id);
    h2_session_flush_later(session);
    return true;
}

int call_send(struct call *call, const ProtobufCMessage *message)
{
    uint8_t *to;

    if (call->stream.over || call->stream.eof)
        return DRV_ECLOSED;
    to = h2_stream_add_space(&call->stream, protobuf_c_message_get_packed_size(message));
    if (to == NULL)
        return DRV_ENOMEM;
    (void)protobuf_c_message_pack(message, to);
    h2_stream_kick(&call->stream);
    return 0;
}

void call_half_close(struct call *call)
{
    if (call->stream.eof)
        return;
    call->stream.eof = true;
    h2_stream_kick(&call->stream);
}

void call_lend(struct call *call, unsigned field, const uint8_t *bytes, size_t n, size_t part)
{
    assert(field >= 1 && field <= 15);
    if (call->stream.over || call->stream.eof)
        return;
    h2_stream_lend(&call->stream, (uint8_t)(field << 3 | 2), bytes, n, part);
    h2_stream_kick(&call->stream);
}

size_t call_lent(const struct call *call)
{
    return call->stream.lent.left;
}

void call_unlend(struct call *call)
{
    h2_stream_unlend(&call->stream);
}

size_t call_queued(const struct call *call)
{
    return buf_size(&call->stream.out);
}

void call_release(struct call *call, size_t n)
{
    h2_stream_release(&call->stream, n);
}

void call_cancel(struct call *call)
{
    if (!call->stream.over)
        call_drop(call);
}

/* ---- the response --------------------------------------------------------------------- */

static bool is_grpc(const uint8_t *type, size_t n)
{
    static const char grpc[] = "application/grpc";
    size_t len = sizeof(grpc) - 1;

    return n >= len && memcmp(type, grpc, len) == 0 &&
           (n == len || type[len] == '+' || type[len] == ';');
}

/* grpc-retry-pushback-ms: anything but a whole number of milliseconds means "do not". */
static int64_t parse_pushback(const uint8_t *text, size_t n)
{
    int64_t ms = 0;
    size_t i;

    if (n == 0 || n > 9)
        return -1;
    for (i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        ms = ms * 10 + (text[i] - '0');
    }
    return ms;
}

static void on_header(struct h2_stream *stream, const uint8_t *name, size_t n,
                      const uint8_t *value, size_t value_len)
{
    struct call *call = call_of(stream);

    if (text_equals(name, n, ":status")) {
        /* nghttp2 lets only three digits through. */
        call->http_status = (unsigned)(value[0] - '0') * 100 + (unsigned)(value[1] - '0') * 10 +
                            (unsigned)(value[2] - '0');
    } else if (text_equals(name, n, "content-type")) {
        call->grpc = is_grpc(value, value_len);
    } else if (text_equals(name, n, "grpc-status")) {
        call->has_status = true;
        call->status = grpc_status_parse(value, value_len);
    } else if (text_equals(name, n, "grpc-message")) {
        buf_reset(&call->message);
        grpc_message_decode(&call->message, value, value_len);
    } else if (text_equals(name, n, "grpc-retry-pushback-ms")) {
        call->pushback_ms = parse_pushback(value, value_len);
    }
}

/* The meaning of a response that is not gRPC's, by its HTTP status. */
static void end_by_http(struct call *call, const char *what)
{
    char text[96];

    (void)snprintf(text, sizeof(text), "%s (HTTP status %u)", what, call->http_status);
    call_end(call, grpc_status_from_http(call->http_status), CALL_END_PROTOCOL, text);
}

static void on_headers(struct h2_stream *stream, bool end_stream)
{
    struct call *call = call_of(stream);

    if (!call->started && call->http_status >= 100 && call->http_status < 200)
        return;
    if (call->started || end_stream) {
        call->started = true;
        return; /* trailers: on_remote_end() comes next */
    }
    call->started = true;
    if (call->http_status != 200 || !call->grpc)
        end_by_http(call, "the answer is not gRPC");
}

static void on_message(struct h2_stream *stream, const uint8_t *message, size_t n)
{
    struct call *call = call_of(stream);

    if (call->unary && call->messages != 0) {
        call_end(call, GRPC_UNIMPLEMENTED, CALL_END_PROTOCOL,
                 "more than one message in a unary response");
        return;
    }
    call->messages++;
    if (call->handler.on_message != NULL)
        call->handler.on_message(call, message, n, call->data);
}

static void on_fault(struct h2_stream *stream, enum h2_fault fault, enum frame_result frame)
{
    struct call *call = call_of(stream);

    if (fault == H2_FAULT_HEADERS) {
        stream->reset = true; /* nghttp2 does it */
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CALL_END_PROTOCOL,
                 "the response headers are too large");
        return;
    }
    switch (frame) {
    case FRAME_TOO_BIG:
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CALL_END_PROTOCOL,
                 "a message is over the size limit");
        break;
    case FRAME_COMPRESSED:
        call_end(call, GRPC_INTERNAL, CALL_END_PROTOCOL,
                 "a compressed message, but compression was not offered");
        break;
    case FRAME_BAD_FLAG:
        call_end(call, GRPC_INTERNAL, CALL_END_PROTOCOL, "a message with a bad flag byte");
        break;
    case FRAME_NO_MEMORY:
        call_end(call, GRPC_RESOURCE_EXHAUSTED, CALL_END_LOCAL, "out of memory");
        break;
    case FRAME_MORE:
    case FRAME_MESSAGE:
        break;
    }
}

static void on_remote_end(struct h2_stream *stream)
{
    struct call *call = call_of(stream);
    bool ok = call->has_status && call->status == GRPC_OK;

    if (!call->has_status) {
        end_by_http(call, "the answer has no grpc-status");
    } else if (ok && frame_reader_partial(&stream->reader) != 0) {
        call_end(call, GRPC_INTERNAL, CALL_END_PROTOCOL, "the answer ends inside a message");
    } else if (ok && call->unary && call->messages == 0) {
        call_end(call, GRPC_UNIMPLEMENTED, CALL_END_PROTOCOL, "no message in a unary response");
    } else if (past_due(call)) {
        end_by_deadline(call);
    } else {
        call_end(call, call->status, CALL_END_STATUS, readable(&call->message));
    }
}

static void on_closed(struct h2_stream *stream, uint32_t code)
{
    struct call *call = call_of(stream);
    char text[96];

    if (stream->over) {
        h2_stream_free_later(&call->channel->guard, stream);
        return;
    }
    if (past_due(call)) {
        end_by_deadline(call);
    } else if (code == NGHTTP2_REFUSED_STREAM) {
        call_end(call, GRPC_UNAVAILABLE, CALL_END_REFUSED, "the peer did not take the call");
    } else if (stream->peer_reset) {
        (void)snprintf(text, sizeof(text), "the peer reset the stream: %s",
                       nghttp2_http2_strerror(code));
        call_end(call, grpc_status_from_h2(code), CALL_END_STATUS, text);
    } else {
        (void)snprintf(text, sizeof(text), "the peer broke HTTP/2: %s",
                       nghttp2_http2_strerror(code));
        call_end(call, GRPC_INTERNAL, CALL_END_PROTOCOL, text);
    }
}

static void on_lost(struct h2_stream *stream, const char *why)
{
    struct call *call = call_of(stream);

    if (stream->over)
        h2_stream_free_later(&call->channel->guard, stream);
    else
        call_end(call, GRPC_UNAVAILABLE, stream->sent ? CALL_END_LOST : CALL_END_REFUSED, why);
}

static void on_batch(struct h2_stream *stream)
{
    struct call *call = call_of(stream);

    if (call->handler.on_batch != NULL)
        call->handler.on_batch(call, call->data);
}

static void on_writable(struct h2_stream *stream)
{
    struct call *call = call_of(stream);

    if (call->handler.on_writable != NULL)
        call->handler.on_writable(call, call->data);
}

/* Requests have no trailers: END_STREAM rides on the last DATA frame. */
static bool on_drained(struct h2_stream *stream)
{
    (void)stream;
    return false;
}

const struct h2_role client_role = {
    .server = false,
    .on_header = on_header,
    .on_headers = on_headers,
    .on_message = on_message,
    .on_fault = on_fault,
    .on_remote_end = on_remote_end,
    .on_batch = on_batch,
    .on_writable = on_writable,
    .on_drained = on_drained,
    .on_closed = on_closed,
    .on_lost = on_lost,
    .on_ready = channel_on_ready,
    .on_goaway = channel_on_goaway,
    .on_room = channel_on_room,
    .on_down = channel_on_down,
};

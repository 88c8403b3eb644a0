/*
 * server_call.c - one call of the server: its request, its response, its end.
 *
 * The response's headers are held back until the first message, so that an early failure is one
 * frame (Trailers-Only).  A unary request is delivered only when the client has said all of it:
 * then it is known that exactly one message came.
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/text/text.h"
#include "proto/rpc/grpc/fields.h"
#include "proto/rpc/grpc/server_private.h"

#define DEFAULT_MESSAGE_BYTES ((size_t)4 << 20)
#define HEAD_FIELDS           3
#define TRAILER_FIELDS        3

enum content_type {
    CONTENT_MISSING = 0, /* or not gRPC */
    CONTENT_GRPC,
    CONTENT_OTHER_CODEC, /* gRPC, but not protobuf */
};

struct server_call {
    struct h2_stream stream;
    struct grpc_server *server;         /* borrowed */
    const struct server_method *method; /* borrowed; NULL = no such method */
    void *data;                         /* the handler's */
    struct net_addr peer;

    /* Of the request. */
    bool started; /* on_start has run */
    bool headers_in;
    bool post, te_trailers;
    bool bad_timeout, bad_metadata, encoded;
    bool has_message;
    enum content_type content;
    struct metadata metadata;
    struct timer deadline;
    uint64_t due_mono_us; /* 0 = none */
    struct buf held;      /* unary: the message, until the client's END_STREAM */

    /* Of the response. */
    bool finished;  /* by server_call_finish() */
    bool reported;  /* on_gone or on_closed has run */
    bool responded; /* the response's headers were submitted */
    bool ended;     /* and so was its end: trailers, or all in one */
    enum grpc_status status;
    int64_t pushback_ms;
    struct buf message; /* percent-encoded */
};

static struct server_call *call_of(struct h2_stream *stream)
{
    return CONTAINER_OF(stream, struct server_call, stream);
}

static void free_call(struct h2_stream *stream)
{
    struct server_call *call = call_of(stream);

    h2_stream_finish(stream);
    metadata_finish(&call->metadata);
    buf_finish(&call->held);
    buf_finish(&call->message);
    free(call);
}

/* ---- the response --------------------------------------------------------------------- */

/* Fields that every response begins with: HEAD_FIELDS of them. */
static size_t head_fields(nghttp2_nv *fields)
{
    fields[0] = field_of(":status", "200");
    fields[1] = field_of("content-type", "application/grpc");
    fields[2] = field_of("grpc-accept-encoding", "identity");
    return 3;
}

struct trailer_text {
    char status[4];
    char pushback[24];
};

/* Up to TRAILER_FIELDS of them. */
static size_t trailer_fields(struct server_call *call, nghttp2_nv *fields,
                             struct trailer_text *text)
{
    size_t n = 0;

    (void)snprintf(text->status, sizeof(text->status), "%u", (unsigned)call->status & 31U);
    fields[n++] = field_of("grpc-status", text->status);
    if (buf_size(&call->message) != 0)
        fields[n++] = field_of("grpc-message", buf_cstr(&call->message));
    if (call->pushback_ms != -2) {
        (void)snprintf(text->pushback, sizeof(text->pushback), "%lld",
                       (long long)call->pushback_ms);
        fields[n++] = field_of("grpc-retry-pushback-ms", text->pushback);
    }
    return n;
}

static void submit_headers(struct server_call *call)
{
    nghttp2_nv fields[HEAD_FIELDS];
    nghttp2_data_provider provider = h2_stream_provider(&call->stream);
    struct h2_session *session = call->stream.session;
    size_t n = head_fields(fields);

    call->responded = true;
    if (nghttp2_submit_response(session->h2, call->stream.id, fields, n, &provider) != 0)
        h2_stream_reset(&call->stream, NGHTTP2_INTERNAL_ERROR);
    h2_session_flush_later(session);
}

static void submit_trailers_only(struct server_call *call)
{
    nghttp2_nv fields[HEAD_FIELDS + TRAILER_FIELDS];
    struct trailer_text text;
    struct h2_session *session = call->stream.session;
    size_t n = head_fields(fields);

    call->responded = true;
    call->ended = true;
    n += trailer_fields(call, fields + n, &text);
    if (nghttp2_submit_response(session->h2, call->stream.id, fields, n, NULL) != 0)
        h2_stream_reset(&call->stream, NGHTTP2_INTERNAL_ERROR);
    h2_session_flush_later(session);
}

static void submit_trailers(struct server_call *call)
{
    nghttp2_nv fields[TRAILER_FIELDS];
    struct trailer_text text;
    size_t n;

    if (call->ended)
        return;
    call->ended = true;
    n = trailer_fields(call, fields, &text);
    if (nghttp2_submit_trailer(call->stream.session->h2, call->stream.id, fields, n) != 0)
        h2_stream_reset(&call->stream, NGHTTP2_INTERNAL_ERROR);
    h2_session_flush_later(call->stream.session);
}

/* The stream gets no callback from here on, and ends with this status once its queue is out. */
static void conclude(struct server_call *call, enum grpc_status status, const char *message,
                     int64_t pushback_ms)
{
    call->stream.over = true;
    call->stream.eof = true;
    call->status = status;
    call->pushback_ms = pushback_ms;
    if (message != NULL)
        grpc_message_encode(&call->message, message);
    if (call->stream.session == NULL)
        return;
    if (call->responded)
        h2_stream_kick(&call->stream);
    else
        submit_trailers_only(call);
}

static bool on_drained(struct h2_stream *stream)
{
    submit_trailers(call_of(stream));
    return true;
}

/* ---- the end -------------------------------------------------------------------------- */

static void report_gone(struct server_call *call)
{
    if (!call->started || call->reported)
        return;
    call->reported = true;
    call->method->handler->on_gone(call);
}

/* The library ends the call, not the handler. */
static void fail(struct server_call *call, enum grpc_status status, const char *message)
{
    conclude(call, status, message, -2);
    report_gone(call);
}

/* Queued messages came too late.  The trailers overtake them, whatever the window: a reset
 * would only say that the call was cancelled. */
static void end_late(struct server_call *call, const char *text)
{
    call->stream.over = true;
    call->stream.eof = true;
    if (call->ended)
        return;
    buf_finish(&call->stream.out);
    buf_finish(&call->message);
    call->status = GRPC_DEADLINE_EXCEEDED;
    call->pushback_ms = -2;
    grpc_message_encode(&call->message, text);
    submit_trailers(call);
}

static void on_deadline(struct timer *timer)
{
    struct server_call *call = CONTAINER_OF(timer, struct server_call, deadline);
    struct h2_guard *guard = &call->server->guard;
    const char *text = call->due_mono_us != 0 && clock_mono_us() >= call->due_mono_us
                           ? "deadline exceeded"
                           : "the request did not come in time";

    h2_guard_enter(guard);
    if (call->responded) {
        end_late(call, text);
        if (!call->finished)
            report_gone(call);
    } else {
        fail(call, GRPC_DEADLINE_EXCEEDED, text);
    }
    h2_guard_leave(guard);
}

/* The timer runs to the client's deadline, but not longer than a request may take to come.
 * The handler watches streams of requests itself. */
static void watch_time(struct server_call *call)
{
    uint64_t now = clock_mono_us(), due = call->due_mono_us;
    bool coming = !call->method->client_streaming && !call->stream.remote_end;

    if (coming && (due == 0 || due > now + call->server->config.request_timeout_us))
        due = now + call->server->config.request_timeout_us;
    if (due == 0)
        timer_stop(call->server->loop, &call->deadline);
    else
        timer_start(call->server->loop, &call->deadline, due > now ? due - now : 0,
                    on_deadline);
}

/* The stream is off its session: nothing can be sent or received any more. */
static void leave(struct server_call *call)
{
    call->stream.over = true;
    timer_stop(call->server->loop, &call->deadline);
    if (call->finished) {
        if (!call->reported && call->method->handler->on_closed != NULL) {
            call->reported = true;
            call->method->handler->on_closed(call);
        }
    } else {
        report_gone(call);
    }
    h2_stream_free_later(&call->server->guard, &call->stream);
}

static void on_closed(struct h2_stream *stream, uint32_t code)
{
    (void)code;
    leave(call_of(stream));
}

static void on_lost(struct h2_stream *stream, const char *why)
{
    (void)why;
    leave(call_of(stream));
}

/* ---- the request ---------------------------------------------------------------------- */

static struct h2_stream *on_request(struct h2_session *session)
{
    struct server_call *call = calloc(1, sizeof(*call));

    if (call == NULL)
        return NULL;
    h2_stream_init(&call->stream, DEFAULT_MESSAGE_BYTES, free_call);
    call->server = session->owner;
    call->peer = session->peer;
    call->pushback_ms = -2;
    return &call->stream;
}

static const struct server_method *find_method(const struct grpc_server *server,
                                               const uint8_t *path, size_t n)
{
    size_t i;

    for (i = 0; i < server->config.methods_count; i++)
        if (text_equals(path, n, server->config.methods[i].path))
            return &server->config.methods[i];
    return NULL;
}

static void take_path(struct server_call *call, const uint8_t *path, size_t n)
{
    const struct server_config *config = &call->server->config;

    call->method = find_method(call->server, path, n);
    if (call->method == NULL && config->on_unknown != NULL)
        config->on_unknown(config->data, &call->peer, (const char *)path, n);
}

static enum content_type content_type(const uint8_t *value, size_t n)
{
    static const char grpc[] = "application/grpc";
    size_t len = sizeof(grpc) - 1;

    if (n < len || memcmp(value, grpc, len) != 0)
        return CONTENT_MISSING;
    value += len;
    n -= len;
    if (n == 0 || value[0] == ';')
        return CONTENT_GRPC;
    if (value[0] != '+')
        return CONTENT_MISSING;
    if (n >= 6 && memcmp(value, "+proto", 6) == 0 && (n == 6 || value[6] == ';'))
        return CONTENT_GRPC;
    return CONTENT_OTHER_CODEC;
}

static void read_timeout(struct server_call *call, const uint8_t *value, size_t n)
{
    uint64_t timeout_us;

    if (!grpc_timeout_decode(&timeout_us, value, n))
        call->bad_timeout = true;
    else
        call->due_mono_us = clock_mono_us() + timeout_us;
}

static void on_header(struct h2_stream *stream, const uint8_t *name, size_t n,
                      const uint8_t *value, size_t value_len)
{
    struct server_call *call = call_of(stream);

    if (call->headers_in)
        return; /* trailers of a request mean nothing in gRPC */
    if (text_equals(name, n, ":method"))
        call->post = text_equals(value, value_len, "POST");
    else if (text_equals(name, n, ":path"))
        take_path(call, value, value_len);
    else if (text_equals(name, n, "te"))
        call->te_trailers = text_equals(value, value_len, "trailers");
    else if (text_equals(name, n, "content-type"))
        call->content = content_type(value, value_len);
    else if (text_equals(name, n, "grpc-timeout"))
        read_timeout(call, value, value_len);
    else if (text_equals(name, n, "grpc-encoding"))
        call->encoded = !text_equals(value, value_len, "identity");
    else if (metadata_is_custom(name, n) &&
             metadata_add(&call->metadata, name, n, value, value_len) != 0)
        call->bad_metadata = true;
}

/* An answer that is HTTP's, not gRPC's: the caller does not speak gRPC. */
static void refuse(struct server_call *call, const char *http_status)
{
    nghttp2_nv status = field_of(":status", http_status);

    call->stream.over = true;
    call->responded = true;
    if (nghttp2_submit_response(call->stream.session->h2, call->stream.id, &status, 1, NULL) !=
        0)
        h2_stream_reset(&call->stream, NGHTTP2_INTERNAL_ERROR);
}

static void on_headers(struct h2_stream *stream, bool end_stream)
{
    struct server_call *call = call_of(stream);

    (void)end_stream;
    if (call->headers_in)
        return;
    call->headers_in = true;
    if (!call->post) {
        refuse(call, "405");
    } else if (call->content == CONTENT_MISSING) {
        refuse(call, "415");
    } else if (!call->te_trailers) {
        fail(call, GRPC_UNKNOWN, "missing te: trailers");
    } else if (call->content == CONTENT_OTHER_CODEC) {
        fail(call, GRPC_UNIMPLEMENTED, "only protobuf is spoken here");
    } else if (call->method == NULL) {
        fail(call, GRPC_UNIMPLEMENTED, "no such method");
    } else if (call->encoded) {
        fail(call, GRPC_UNIMPLEMENTED, "compressed messages are not taken");
    } else if (call->bad_timeout) {
        fail(call, GRPC_INTERNAL, "malformed grpc-timeout");
    } else if (call->bad_metadata) {
        fail(call, GRPC_INTERNAL, "bad or too much base64 in the metadata");
    } else {
        if (call->method->max_message_bytes != 0)
            stream->reader.max_bytes = call->method->max_message_bytes;
        stream->manual = call->method->manual_window;
        watch_time(call);
        call->started = true;
        call->method->handler->on_start(call, call->method->data);
    }
}

static void on_message(struct h2_stream *stream, const uint8_t *message, size_t n)
{
    struct server_call *call = call_of(stream);
    struct frame_reader *reader = &stream->reader;

    if (call->method->client_streaming) {
        call->method->handler->on_message(call, message, n);
        return;
    }
    if (call->has_message) {
        fail(call, GRPC_UNIMPLEMENTED, "more than one message in a unary request");
        return;
    }
    call->has_message = true;
    /* A message that came in pieces is in the reader's buffer: take that rather than copy. */
    if (reader->partial.data != NULL && message == buf_head(&reader->partial)) {
        call->held = reader->partial;
        reader->partial = BUF_INIT;
    } else {
        buf_add(&call->held, message, n);
        if (call->held.failed) {
            fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory");
            return;
        }
    }
    stream->held_bytes = n;
}

static void on_fault(struct h2_stream *stream, enum h2_fault fault, enum frame_result frame)
{
    struct server_call *call = call_of(stream);

    if (fault == H2_FAULT_HEADERS) {
        stream->over = true;
        stream->reset = true; /* nghttp2 does it */
        report_gone(call);
        return;
    }
    switch (frame) {
    case FRAME_TOO_BIG:
        fail(call, GRPC_RESOURCE_EXHAUSTED, "a message is over the size limit");
        break;
    case FRAME_COMPRESSED:
        fail(call, GRPC_INTERNAL, "a compressed message without grpc-encoding");
        break;
    case FRAME_BAD_FLAG:
        fail(call, GRPC_INTERNAL, "a message with a bad flag byte");
        break;
    case FRAME_NO_MEMORY:
        fail(call, GRPC_RESOURCE_EXHAUSTED, "out of memory for messages");
        break;
    case FRAME_MORE:
    case FRAME_MESSAGE:
        break;
    }
}

static void on_remote_end(struct h2_stream *stream)
{
    struct server_call *call = call_of(stream);
    const struct server_handler *handler = call->method->handler;

    if (frame_reader_partial(&stream->reader) != 0) {
        fail(call, GRPC_INTERNAL, "the request ends inside a message");
        return;
    }
    if (!call->method->client_streaming) {
        if (!call->has_message) {
            fail(call, GRPC_UNIMPLEMENTED, "no message in a unary request");
            return;
        }
        watch_time(call);
        handler->on_message(
            call, buf_size(&call->held) == 0 ? (const uint8_t *)"" : buf_head(&call->held),
            buf_size(&call->held));
        buf_finish(&call->held);
        stream->held_bytes = 0;
        if (stream->session != NULL)
            (void)h2_stream_charge(stream);
    }
    if (!stream->over && handler->on_half_close != NULL)
        handler->on_half_close(call);
}

static void on_writable(struct h2_stream *stream)
{
    struct server_call *call = call_of(stream);

    if (call->method->handler->on_writable != NULL)
        call->method->handler->on_writable(call);
}

static void no_stream_event(struct h2_stream *stream)
{
    (void)stream;
}

static void no_session_event(struct h2_session *session)
{
    (void)session;
}

static void no_goaway_event(struct h2_session *session, uint32_t h2_error_code)
{
    (void)session;
    (void)h2_error_code;
}

const struct h2_role server_role = {
    .server = true,
    .on_request = on_request,
    .on_header = on_header,
    .on_headers = on_headers,
    .on_message = on_message,
    .on_fault = on_fault,
    .on_remote_end = on_remote_end,
    .on_batch = no_stream_event,
    .on_writable = on_writable,
    .on_drained = on_drained,
    .on_closed = on_closed,
    .on_lost = on_lost,
    .on_ready = no_session_event,
    .on_goaway = no_goaway_event,
    .on_room = no_session_event,
    .on_down = server_on_down,
};

/* ---- server.h ------------------------------------------------------------------------- */

void *server_call_data(const struct server_call *call)
{
    return call->data;
}

void server_call_set_data(struct server_call *call, void *data)
{
    call->data = data;
}

const void *server_call_metadata(const struct server_call *call, const char *name, size_t *n)
{
    return metadata_get(&call->metadata, name, n);
}

void server_call_peer(const struct server_call *call, struct net_addr *out)
{
    *out = call->peer;
}

void server_call_vouch(struct server_call *call)
{
    if (call->stream.session != NULL)
        crowd_leave(&call->server->strangers, &call->stream.session->stranger);
}

/* The first message brings the headers along. */
static void sent(struct server_call *call)
{
    if (call->responded)
        h2_stream_kick(&call->stream);
    else
        submit_headers(call);
}

int server_call_send(struct server_call *call, const ProtobufCMessage *message)
{
    uint8_t *to;

    if (call->stream.over || call->stream.session == NULL)
        return DRV_ECLOSED;
    to = h2_stream_add_space(&call->stream, protobuf_c_message_get_packed_size(message));
    if (to == NULL)
        return DRV_ENOMEM;
    (void)protobuf_c_message_pack(message, to);
    sent(call);
    return 0;
}

void server_call_release(struct server_call *call, size_t n)
{
    h2_stream_release(&call->stream, n);
}

size_t server_call_queued(const struct server_call *call)
{
    return buf_size(&call->stream.out);
}

void server_call_finish_pushback(struct server_call *call, enum grpc_status status,
                                 const char *message, int64_t pushback_ms)
{
    if (call->finished || call->stream.over)
        return;
    call->finished = true;
    conclude(call, status, message, pushback_ms);
}

void server_call_finish(struct server_call *call, enum grpc_status status, const char *message)
{
    server_call_finish_pushback(call, status, message, -2);
}

/*
 * h2_events.c - the callbacks of nghttp2, and the limits that nghttp2 does not have.
 *
 * Fields and bytes of a header block are bounded here; flood.h counts what is bounded over
 * time.
 */
#include "proto/rpc/h2/h2_session_private.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"

#define MAX_HEADER_BYTES  8192 /* of a block: names, values and 32 for each field */
#define MAX_HEADER_FIELDS 64
#define MAX_STRIKES       3
/* nghttp2 stops where it is as soon as a callback has ended the session. */
static int outcome(const struct h2_session *session)
{
    return session->phase == H2_DEAD ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

/* Counts useful bytes, padding included: one of gRPC's own interop cases is 255 bytes of it
 * around every 5 of data. */
static int on_begin_frame(nghttp2_session *h2, const nghttp2_frame_hd *hd, void *user_data)
{
    struct h2_session *session = user_data;

    (void)h2;
    if (hd->type == NGHTTP2_DATA || hd->type == NGHTTP2_HEADERS) {
        session->flood.useful_bytes += hd->length;
        /* A PING that is out may reach the peer only after it had sent this. */
        session->bare_pings = session->pinged ? 1 : 0;
    }
    return 0;
}

static int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data)
{
    struct h2_session *session = user_data;
    struct h2_stream *stream;

    if (frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    if (session->role->server && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
        stream = session->closing ? NULL : session->role->on_request(session);
        if (stream == NULL)
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
        h2_session_attach(session, stream, frame->hd.stream_id);
        (void)nghttp2_session_set_stream_user_data(h2, frame->hd.stream_id, stream);
    } else {
        stream = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
    }
    if (stream != NULL) {
        stream->fields = 0;
        stream->head_bytes = 0;
    }
    return 0;
}

static int on_header(nghttp2_session *h2, const nghttp2_frame *frame, nghttp2_rcbuf *name,
                     nghttp2_rcbuf *value, uint8_t flags, void *user_data)
{
    struct h2_session *session = user_data;
    struct h2_stream *stream = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
    nghttp2_vec n = nghttp2_rcbuf_get_buf(name), v = nghttp2_rcbuf_get_buf(value);

    (void)flags;
    if (stream == NULL || frame->hd.type != NGHTTP2_HEADERS)
        return 0;
    stream->fields++;
    stream->head_bytes += n.len + v.len + 32;
    if (stream->fields > MAX_HEADER_FIELDS || stream->head_bytes > MAX_HEADER_BYTES) {
        if (!stream->over)
            session->role->on_fault(stream, H2_FAULT_HEADERS, FRAME_MORE);
        return session->phase == H2_DEAD ? NGHTTP2_ERR_CALLBACK_FAILURE
                                         : NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    }
    if (!stream->over)
        session->role->on_header(stream, n.base, n.len, v.base, v.len);
    return outcome(session);
}

static int on_data(nghttp2_session *h2, uint8_t flags, int32_t id, const uint8_t *bytes,
                   size_t n, void *user_data)
{
    struct h2_stream *stream = nghttp2_session_get_stream_user_data(h2, id);

    (void)user_data;
    (void)flags;
    (void)nghttp2_session_consume_connection(h2, n);
    return stream == NULL ? 0 : h2_stream_data(stream, bytes, n);
}

/* ---- frames received ------------------------------------------------------------------ */

static void on_settings(struct h2_session *session, uint64_t now)
{
    h2_session_calm(session, flood_count(&session->flood, FLOOD_SETTINGS, now));
    if (session->closing)
        return;
    if (session->phase != H2_SETTINGS) {
        session->role->on_room(session); /* the peer may take more streams now */
        return;
    }
    session->phase = H2_OPEN;
    session->ready_mono_us = now;
    if (!session->closing) {
        timer_stop(session->loop, &session->timer);
        if (session->config.keepalive_us != UINT64_MAX)
            timer_start(session->loop, &session->timer, session->config.keepalive_us,
                        session->timer.cb);
    }
    session->role->on_ready(session);
}

/* The answer goes out by itself. */
static void on_ping(struct h2_session *session, uint64_t now)
{
    bool fast = session->ping_mono_us != 0 &&
                now - session->ping_mono_us < session->config.min_ping_interval_us;

    session->ping_mono_us = now;
    if (session->role->server && fast && ++session->strikes > MAX_STRIKES)
        h2_session_calm(session, "too_many_pings");
    h2_session_calm(session, flood_count(&session->flood, FLOOD_PING, now));
}

static int on_frame(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data)
{
    struct h2_session *session = user_data;
    struct h2_stream *stream = NULL;
    bool end = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;

    if (frame->hd.stream_id != 0)
        stream = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
        if (stream == NULL)
            break;
        if (!stream->over)
            session->role->on_headers(stream, end);
        stream->remote_end = stream->remote_end || end;
        if (end && !stream->over && session->phase != H2_DEAD)
            session->role->on_remote_end(stream);
        break;
    case NGHTTP2_DATA:
        if (frame->hd.length == frame->data.padlen) /* padding around nothing */
            session->flood.useful_bytes -= frame->hd.length;
        if (stream == NULL || !end)
            break;
        stream->remote_end = true;
        if (!stream->over)
            session->role->on_remote_end(stream);
        break;
    case NGHTTP2_RST_STREAM:
        if (stream != NULL)
            stream->peer_reset = true;
        break;
    case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0)
            on_settings(session, clock_mono_us());
        break;
    case NGHTTP2_PING:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0)
            on_ping(session, clock_mono_us());
        else if (timer_running(&session->drain)) {
            timer_stop(session->loop, &session->drain);
            h2_session_retire(session);
        }
        break;
    case NGHTTP2_GOAWAY:
        if (!session->draining) {
            session->draining = true;
            session->role->on_goaway(session, frame->goaway.error_code);
        }
        break;
    default:
        break;
    }
    return outcome(session);
}

static int on_invalid_frame(nghttp2_session *h2, const nghttp2_frame *frame, int lib_error,
                            void *user_data)
{
    struct h2_session *session = user_data;

    (void)h2;
    (void)frame;
    (void)lib_error;
    h2_session_calm(session, flood_count(&session->flood, FLOOD_FAULT, clock_mono_us()));
    return outcome(session);
}

/* ---- frames sent ---------------------------------------------------------------------- */

/* A server's resets for what the client did wrong, each of which may leave work behind. */
static void note_reset(struct h2_session *session, uint32_t h2_error_code)
{
    enum flood_event event = flood_of_reset(h2_error_code);

    if (event != FLOOD_EVENTS)
        h2_session_calm(session, flood_count(&session->flood, event, clock_mono_us()));
}

static int on_frame_sent(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data)
{
    struct h2_session *session = user_data;
    struct h2_stream *stream;

    switch (frame->hd.type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA:
        session->strikes = 0;
        stream = nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id);
        if (stream == NULL)
            break;
        stream->sent = true;
        if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0)
            break;
        stream->local_end = true;
        /* A server that has answered before the client has said everything stops it. */
        if (session->role->server && !stream->remote_end)
            h2_stream_reset(stream, NGHTTP2_NO_ERROR);
        break;
    case NGHTTP2_RST_STREAM:
        if (session->role->server)
            note_reset(session, frame->rst_stream.error_code);
        break;
    case NGHTTP2_GOAWAY: /* perhaps by nghttp2 itself */
        if (frame->goaway.error_code != NGHTTP2_NO_ERROR && session->blame == NULL)
            session->blame = nghttp2_http2_strerror(frame->goaway.error_code);
        break;
    default:
        break;
    }
    return outcome(session);
}

static void closed(struct h2_session *session, struct h2_stream *stream, uint32_t code)
{
    h2_session_detach(stream);
    session->role->on_closed(stream, code);
    if (session->phase != H2_DEAD)
        session->role->on_room(session);
}

/* A request that nghttp2 could not start has no stream, and so no on_stream_close. */
static int on_frame_not_sent(nghttp2_session *h2, const nghttp2_frame *frame, int lib_error,
                             void *user_data)
{
    struct h2_session *session = user_data;
    struct h2_stream *stream;

    (void)lib_error;
    if (frame->hd.type != NGHTTP2_HEADERS || session->role->server ||
        nghttp2_session_get_stream_user_data(h2, frame->hd.stream_id) != NULL)
        return 0;
    LIST_FOREACH(stream, &session->streams, link) {
        if (stream->id == frame->hd.stream_id) {
            closed(session, stream, NGHTTP2_REFUSED_STREAM);
            break;
        }
    }
    return outcome(session);
}

static int on_stream_close(nghttp2_session *h2, int32_t id, uint32_t error_code,
                           void *user_data)
{
    struct h2_session *session = user_data;
    struct h2_stream *stream = nghttp2_session_get_stream_user_data(h2, id);

    if (stream == NULL)
        return 0;
    (void)nghttp2_session_set_stream_user_data(h2, id, NULL);
    closed(session, stream, error_code);
    return outcome(session);
}

/* ---- making one ----------------------------------------------------------------------- */

/* Never freed: one per thread, as long as the process. */
static _Thread_local nghttp2_session_callbacks *callbacks;
static _Thread_local nghttp2_option *options[2]; /* by role: client, server */

static int make_callbacks(void)
{
    if (callbacks != NULL)
        return 0;
    if (nghttp2_session_callbacks_new(&callbacks) != 0)
        return DRV_ENOMEM;
    nghttp2_session_callbacks_set_on_begin_frame_callback(callbacks, on_begin_frame);
    nghttp2_session_callbacks_set_on_begin_headers_callback(callbacks, on_begin_headers);
    nghttp2_session_callbacks_set_on_header_callback2(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks, on_frame);
    nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(callbacks, on_invalid_frame);
    nghttp2_session_callbacks_set_on_frame_send_callback(callbacks, on_frame_sent);
    nghttp2_session_callbacks_set_on_frame_not_send_callback(callbacks, on_frame_not_sent);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_stream_close);
    return 0;
}

static int make_options(bool server)
{
    nghttp2_option *option;

    if (options[server] != NULL)
        return 0;
    if (nghttp2_option_new(&option) != 0)
        return DRV_ENOMEM;
    nghttp2_option_set_no_auto_window_update(option, 1);
    nghttp2_option_set_max_outbound_ack(option, 64);
    nghttp2_option_set_no_closed_streams(option, 1);
    if (server)
        nghttp2_option_set_stream_reset_rate_limit(option, 100, 10);
    options[server] = option;
    return 0;
}

int h2_events_start(struct h2_session *session)
{
    const struct h2_config *config = &session->config;
    bool server = session->role->server;
    nghttp2_settings_entry settings[] = {
        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, config->stream_window_bytes},
        {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, MAX_HEADER_BYTES},
        {NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
    };
    int rc;

    if (make_callbacks() != 0 || make_options(server) != 0)
        return DRV_ENOMEM;
    if (server) {
        settings[2].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS;
        settings[2].value = config->max_streams;
        rc = nghttp2_session_server_new2(&session->h2, callbacks, session, options[server]);
    } else {
        rc = nghttp2_session_client_new2(&session->h2, callbacks, session, options[server]);
    }
    if (rc != 0)
        return DRV_ENOMEM;
    if (nghttp2_submit_settings(session->h2, NGHTTP2_FLAG_NONE, settings,
                                ARRAY_LEN(settings)) != 0 ||
        nghttp2_session_set_local_window_size(session->h2, NGHTTP2_FLAG_NONE, 0,
                                              (int32_t)config->connection_window_bytes) != 0)
        return DRV_ENOMEM;
    return 0;
}

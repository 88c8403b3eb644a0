/* sender.c - the bytes of an answer on their way to the caller. */
#include "node/answer/sender.h"

#include <string.h>

#include "base/text/json.h"
#include "base/text/text.h"
#include "node/answer/answer_names.h"
#include "node/body/unasked.h"
#include "node/engine/headers.h"
#include "node/node_request.h"
#include "proto/drover_common.pb-c.h"

#define CHUNK_MAX_BYTES (256 * 1024)
#define QUEUE_MAX_BYTES (256 * 1024) /* above it the engine is paused */

void sender_keep_headers(struct node_request *req, const struct engine_header *headers,
                         size_t count)
{
    const char *at;

    req->response_headers_count = 0;
    buf_reset(&req->response_text);
    for (size_t i = 0; i < count && req->response_headers_count < HEADERS_MAX; i++) {
        if (!headers_to_client(headers[i].name, headers[i].value))
            continue;
        buf_add(&req->response_text, headers[i].name, strlen(headers[i].name) + 1);
        buf_add(&req->response_text, headers[i].value, strlen(headers[i].value) + 1);
        req->response_headers_count++;
    }
    if (req->response_text.failed) {
        req->response_headers_count = 0;
        return;
    }
    at = (const char *)buf_head(&req->response_text);
    for (size_t i = 0; i < req->response_headers_count; i++) {
        req->response_headers[i].name = at;
        at += strlen(at) + 1;
        req->response_headers[i].value = at;
        at += strlen(at) + 1;
    }
}

static bool send_head(struct node_request *req)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__ResponseHead head = DROVER__V1__RESPONSE_HEAD__INIT;
    Drover__V1__Header headers[HEADERS_MAX], *list[HEADERS_MAX];

    if (req->head_sent)
        return true;
    req->head_sent = true;
    for (size_t i = 0; i < req->response_headers_count; i++) {
        drover__v1__header__init(&headers[i]);
        /* protobuf-c knows no const */
        headers[i].name = (char *)(uintptr_t)req->response_headers[i].name;
        headers[i].value = (char *)(uintptr_t)req->response_headers[i].value;
        list[i] = &headers[i];
    }
    head.http_status = req->http_status;
    head.content_type = req->content_type;
    head.n_headers = req->response_headers_count;
    head.headers = list;
    head.event_stream = req->mode == ANSWER_EVENTS;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_HEAD;
    event.head = &head;
    return node_request_send(req, &event);
}

/* The plain text gathered this turn, if there is any that a protobuf string can hold.  After a
 * finish reason there is nothing to continue, and after half an event no node can. */
static void add_text(struct node_request *req, Drover__V1__Chunk *chunk, bool whole)
{
    struct stream_meter *o = &req->meter;

    if (!req->want_text || req->mode != ANSWER_EVENTS)
        return;
    if (!text_is_utf8(buf_head(&o->text), buf_size(&o->text)))
        o->plain = false;
    chunk->resumable = req->resumable && o->plain && !o->finished && whole;
    if (req->resumable && o->plain && buf_size(&o->text) != 0) {
        chunk->text = (char *)(uintptr_t)buf_cstr(&o->text);
        chunk->token_ids =
            (uint32_t *)(uintptr_t)token_ids_of_text(&req->ids, &chunk->n_token_ids);
        chunk->vocabulary = chunk->n_token_ids == 0 ? 0 : req->vocabulary;
    }
    if (!req->content_sent && req->out_content) {
        chunk->response_id = o->response_id;
        chunk->created = o->created;
        chunk->item_id = o->item_id;
    }
}

/* Sends the first `n` of the gathered bytes, after the head.  False: the call has ended. */
static bool send_chunk(struct node_request *req, size_t n)
{
    Drover__V1__InferEvent event = DROVER__V1__INFER_EVENT__INIT;
    Drover__V1__Chunk chunk = DROVER__V1__CHUNK__INIT;

    if (!send_head(req))
        return false;
    chunk.data.data = buf_head(&req->out);
    chunk.data.len = n;
    chunk.tokens = req->out_tokens;
    chunk.content = req->out_content;
    chunk.next_sequence = req->meter.next_sequence;
    add_text(req, &chunk, n == buf_size(&req->out));
    if (req->keeps && !req->kept_sent && req->http_status < 300)
        chunk.kept_id = req->meter.response_id;
    event.event_case = DROVER__V1__INFER_EVENT__EVENT_CHUNK;
    event.chunk = &chunk;
    if (!node_request_send(req, &event))
        return false;
    req->kept_sent |= chunk.kept_id[0] != '\0';
    req->body_bytes += n;
    if (req->out_content)
        req->signs_told = silence_signs_of_life(&req->silence);
    req->content_sent |= req->out_content;
    if (req->content_sent)
        node_request_drop_body(req);
    req->out_tokens = 0;
    req->out_content = false;
    buf_reset(&req->meter.text);
    token_ids_taken(&req->ids);
    return true;
}

static void pause_engine(struct node_request *req)
{
    if (req->paused || req->run == NULL)
        return;
    req->paused = true;
    silence_pause(&req->silence, true, loop_now_us(req->agent->loop));
    engine_pause(req->run, true);
}

bool sender_flush(struct node_request *req)
{
    loop_undefer(req->agent->loop, &req->flush);
    if (req->doubted) {
        if (buf_size(&req->out) > QUEUE_MAX_BYTES)
            pause_engine(req);
        return true;
    }
    req->last_brace = 0;
    if (req->tell_progress && buf_size(&req->out) == 0 && !send_chunk(req, 0))
        return false;
    req->tell_progress = false;
    while (buf_size(&req->out) != 0) {
        size_t n = buf_size(&req->out);

        if (n > CHUNK_MAX_BYTES)
            n = CHUNK_MAX_BYTES; /* one huge event, or a long plain answer */
        if (!send_chunk(req, n))
            return false;
        buf_consume(&req->out, n);
    }
    buf_shrink(&req->out, 64 * 1024);
    if (server_call_queued(req->call) > QUEUE_MAX_BYTES)
        pause_engine(req);
    return true;
}

static void on_flush(struct deferred *deferred)
{
    struct node_request *req = CONTAINER_OF(deferred, struct node_request, flush);

    /* The event that ends a choice waits for the usage event, which comes at once. */
    if (req->last_brace == 0 && !sender_flush(req))
        return; /* the call has ended */
}

void sender_flush_soon(struct node_request *req)
{
    loop_defer(req->agent->loop, &req->flush, on_flush);
}

bool sender_add(struct node_request *req, const void *bytes, size_t n)
{
    if (buf_size(&req->out) != 0 && buf_size(&req->out) + n > CHUNK_MAX_BYTES &&
        !sender_flush(req))
        return false;
    buf_add(&req->out, bytes, n);
    if (req->out.failed) {
        node_request_fail(req, GRPC_UNAVAILABLE, "the node is out of memory");
        return false;
    }
    sender_flush_soon(req);
    return true;
}

bool sender_add_event(struct node_request *req, const struct sse_event *event,
                      const struct json_value *root)
{
    struct buf named = BUF_INIT;
    bool added;

    if (req->answer_model[0] == '\0' || root->type != JSON_OBJECT)
        return sender_add(req, event->raw, event->raw_len);
    answer_names_replace(&named, event->raw, event->raw_len, root, req->answer_model);
    added = named.failed ? sender_add(req, event->raw, event->raw_len)
                         : sender_add(req, buf_head(&named), buf_size(&named));
    buf_finish(&named);
    return added;
}

/* A document that is whole names the model as the client did. */
static void name_document(struct node_request *req)
{
    struct buf named = BUF_INIT;
    struct json_value root;

    if (req->answer_model[0] == '\0' || req->too_large ||
        (req->mode != ANSWER_PLAIN && req->mode != ANSWER_ASSEMBLED) ||
        !json_check_lenient(&root, buf_head(&req->out), buf_size(&req->out)) ||
        root.type != JSON_OBJECT)
        return;
    answer_names_replace(&named, buf_head(&req->out), buf_size(&req->out), &root,
                         req->answer_model);
    if (named.failed) {
        buf_finish(&named); /* better the engine's name than no answer */
        return;
    }
    buf_finish(&req->out);
    req->out = named;
}

void sender_writable(struct node_request *req)
{
    if (!req->paused)
        return;
    req->paused = false;
    req->heard_us = loop_now_us(req->agent->loop); /* the engine may have said more meanwhile */
    silence_pause(&req->silence, false, loop_now_us(req->agent->loop));
    if (req->run != NULL)
        engine_pause(req->run, false);
}

void sender_pass(struct node_request *req)
{
    if (req->doubted) {
        req->pass_due = true;
        return;
    }
    name_document(req);
    if (!send_head(req) || !sender_flush(req))
        return;
    node_request_succeed(req);
}

bool sender_add_last(struct node_request *req)
{
    static const char done[] = "data: [DONE]\n\n";
    static const char stop[] = "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

    if (req->mode != ANSWER_EVENTS || req->meter.done || !meter_streams(req->operation))
        return true;
    return req->operation == DROVER__V1__OPERATION__OPERATION_MESSAGES
               ? sender_add(req, stop, sizeof(stop) - 1)
               : sender_add(req, done, sizeof(done) - 1);
}

bool sender_add_unasked(struct node_request *req, const struct json_value *root)
{
    struct buf members = BUF_INIT, tail = BUF_INIT;

    if (req->last_brace != 0 && unasked_members(&members, root)) {
        buf_add(&tail, buf_head(&req->out) + req->last_brace,
                buf_size(&req->out) - req->last_brace);
        req->out.len -= buf_size(&tail);
        buf_add(&req->out, buf_head(&members), buf_size(&members));
        buf_add(&req->out, buf_head(&tail), buf_size(&tail));
        req->out.failed |= tail.failed || members.failed;
    }
    buf_finish(&members);
    buf_finish(&tail);
    req->last_brace = 0;
    return sender_add(req, "", 0);
}

void sender_note_end(struct node_request *req, const struct sse_event *event,
                     const struct seen *seen)
{
    uintptr_t data = (uintptr_t)event->data, raw = (uintptr_t)event->raw;
    size_t after;

    req->last_brace = 0;
    if (!req->usage_added || !seen->ends || !req->meter.finished || data < raw ||
        data + event->data_len > raw + event->raw_len)
        return;
    after = raw + event->raw_len - (uintptr_t)(seen->root.text + seen->root.len);
    if (seen->root.type == JSON_OBJECT && after < buf_size(&req->out))
        req->last_brace = buf_size(&req->out) - after - 1;
}

/* headers.c - what the header lines of a request say, apart from keys. */
#include "worker/http/entry/headers.h"

#include <string.h>

#include "base/text/text.h"
#include "worker/http/client_request.h"
#include "worker/http/responder_private.h"
#include "worker/http/server_state.h"

/* A header value that goes on to an engine is not longer than this. */
#define MAX_FORWARD_BYTES 1024
#define LOOP_HEADER       "x-drover-via"
#define LOOP_MAX_BYTES    512 /* of this header as it comes: 28 coordinators */

bool header_is_printable(const h2o_iovec_t *value)
{
    return text_is_printable(value->base, value->len);
}

const char *header_copy(h2o_req_t *req, const h2o_iovec_t *text)
{
    return h2o_strdup(&req->pool, text->base, text->len).base;
}

h2o_iovec_t header_value(const h2o_req_t *req, const char *name)
{
    ssize_t at = h2o_find_header_by_str(&req->headers, name, strlen(name), -1);

    return at == -1 ? h2o_iovec_init(NULL, 0) : req->headers.entries[at].value;
}

static bool starts_with(const h2o_iovec_t *name, const char *prefix)
{
    return text_starts_with(name->base, name->len, prefix);
}

static bool is_name(const h2o_iovec_t *name, const char *expected)
{
    return text_equals(name->base, name->len, expected);
}

/* Only what an engine may need and what names neither the client nor a conversation: some
 * engines change their ways on a header (llama-server goes on after its client has left when
 * there is an x-conversation-id). */
static bool is_forwarded(const h2o_iovec_t *name)
{
    return is_name(name, "traceparent") || is_name(name, "tracestate") ||
           starts_with(name, "anthropic-") || starts_with(name, "x-claude-code-");
}

/* The engine knows a request by the id that the node gives it, which is unique; the client's
 * may repeat, so it goes by another name. */
void headers_collect_forwarded(struct client_request *request, h2o_req_t *req)
{
    if (request->id != request->execution_id)
        request->forward[request->forward_count++] =
            (struct request_header){.name = "x-client-request-id", .value = request->id};
    for (size_t i = 0; i < req->headers.size; i++) {
        const h2o_header_t *header = &req->headers.entries[i];
        struct request_header *to;

        if (!is_forwarded(header->name) || header->value.len > MAX_FORWARD_BYTES ||
            !header_is_printable(&header->value))
            continue;
        if (request->forward_count == REQUEST_MAX_FORWARD - 1)
            break;
        to = &request->forward[request->forward_count++];
        to->name = header_copy(req, header->name);
        to->value = header_copy(req, &header->value);
    }
    request->forward[request->forward_count++] =
        (struct request_header){.name = LOOP_HEADER, .value = request->via};
}

static const char *header_session(h2o_req_t *req, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ssize_t at = h2o_find_header_by_str(&req->headers, names[i], strlen(names[i]), -1);
        const h2o_iovec_t *value = at == -1 ? NULL : &req->headers.entries[at].value;

        if (value != NULL && value->len != 0 && value->len < REQUEST_SESSION_BYTES &&
            header_is_printable(value))
            return header_copy(req, value);
    }
    return NULL;
}

/* The key that keeps a conversation on the node that has it cached: the first of these. */
const char *headers_find_session(h2o_req_t *req, const struct inspected *body)
{
    static const char *const names[] = {
        "x-session-id",      "x-session-affinity",   "x-litellm-session-id",
        "x-smg-routing-key", "x-cache-affinity-key", "x-claude-code-session-id",
    };
    const char *session = header_session(req, names, ARRAY_LEN(names));

    if (session == NULL && body->session[0] != '\0')
        session = h2o_strdup(&req->pool, body->session, SIZE_MAX).base;
    return session;
}

/* ---- loops ------------------------------------------------------------------------------- */

bool headers_pass_on(struct client_request *request, h2o_req_t *req)
{
    struct http_server *server = request->responder->server;
    ssize_t at = h2o_find_header_by_str(&req->headers, H2O_STRLIT(LOOP_HEADER), -1);
    const h2o_iovec_t *passed = at == -1 ? NULL : &req->headers.entries[at].value;
    const char *id = server->coordinator_id;

    if (passed == NULL || !header_is_printable(passed)) {
        request->via = h2o_strdup(&req->pool, id, SIZE_MAX).base;
        return true;
    }
    if (passed->len > LOOP_MAX_BYTES || memmem(passed->base, passed->len, id, 16) != NULL)
        return false;
    request->via = h2o_concat(&req->pool, *passed, h2o_iovec_init(H2O_STRLIT(", ")),
                              h2o_iovec_init(id, 16))
                       .base;
    return true;
}

/* libh2o leaves white space behind a value there. */
void headers_trim(h2o_req_t *req)
{
    for (size_t i = 0; i < req->headers.size; i++) {
        h2o_iovec_t *value = &req->headers.entries[i].value;

        while (value->len > 0 && strchr(" \t", value->base[value->len - 1]) != NULL)
            value->len--;
    }
}

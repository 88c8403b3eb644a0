/* document.c - the body of an answer that is one document, as far as it has come. */
#include "node/answer/document.h"

#include <string.h>

#include "base/text/json.h"
#include "node/node_request.h"

#define BLANK_MAX_BYTES (64 * 1024) /* of white space before an answer */

/* The body so far, without white space around it. */
static const char *text_of(const struct node_request *req, size_t *n)
{
    const struct buf *body = req->mode == ANSWER_ERROR ? &req->out : &req->whole;

    *n = buf_size(body);
    return framing_trim(buf_head(body), n);
}

bool document_may_be_whole(const struct node_request *req)
{
    size_t n;
    const char *text = text_of(req, &n);

    return n != 0 && (text[n - 1] == '}' || text[n - 1] == ']');
}

static bool read_whole(const struct node_request *req, struct json_value *root)
{
    size_t n;
    const char *text = text_of(req, &n);

    return document_may_be_whole(req) && json_check_lenient(root, text, n);
}

bool document_is_whole(const struct node_request *req)
{
    struct json_value root;

    return read_whole(req, &root);
}

bool document_is_last(const struct node_request *req)
{
    struct json_value root;

    return read_whole(req, &root) &&
           (req->mode == ANSWER_ERROR || framing_is_whole(req->operation, &root));
}

bool document_is_too_blank(const struct node_request *req)
{
    size_t n;

    if (buf_size(&req->whole) <= BLANK_MAX_BYTES)
        return false;
    (void)text_of(req, &n);
    return n == 0;
}

bool document_is_kept(const struct node_request *req, const struct json_value *root)
{
    return req->operation == DROVER__V1__OPERATION__OPERATION_STATE &&
           json_get(root, "id").type == JSON_STRING;
}

bool document_flows(const struct node_request *req)
{
    return req->operation == DROVER__V1__OPERATION__OPERATION_SPEECH &&
           strcasestr(req->content_type, "json") == NULL &&
           strcasestr(req->content_type, "text/") == NULL;
}

bool document_may_be_text(const struct node_request *req)
{
    return (req->operation == DROVER__V1__OPERATION__OPERATION_TRANSCRIPTIONS ||
            req->operation == DROVER__V1__OPERATION__OPERATION_TRANSLATIONS) &&
           strcasestr(req->content_type, "json") == NULL &&
           strcasestr(req->content_type, "html") == NULL;
}

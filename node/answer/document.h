/*
 * document.h - the body of an answer that is one document, or an error's, as far as it has
 * come.
 *
 * JSON has an end of its own, wherever HTTP's is.  Pure.
 */
#ifndef DROVER_NODE_ANSWER_DOCUMENT_H
#define DROVER_NODE_ANSWER_DOCUMENT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

struct json_value;
struct node_request;

/* Does it end as a JSON document does?  Cheap: asked at each piece. */
MUST_CHECK bool document_may_be_whole(const struct node_request *req);

/* Is it one JSON document that is whole? */
MUST_CHECK bool document_is_whole(const struct node_request *req);

/* Likewise, and an answer or an error, which nothing follows? */
MUST_CHECK bool document_is_last(const struct node_request *req);

/* Is it white space only, and much of it? */
MUST_CHECK bool document_is_too_blank(const struct node_request *req);

/* Is it something that the engine has kept?  What error is in it is that thing's own. */
MUST_CHECK bool document_is_kept(const struct node_request *req, const struct json_value *root);

/* Is the answer no text at all, but sound, say, which passes as it comes? */
MUST_CHECK bool document_flows(const struct node_request *req);

/* Is text, and not only JSON, an answer to this operation? */
MUST_CHECK bool document_may_be_text(const struct node_request *req);

#endif

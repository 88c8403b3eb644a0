/* h2_session_private.h - what h2_session.c, h2_stream.c and h2_events.c know of each other. */
#ifndef DROVER_PROTO_RPC_H2_H2_SESSION_PRIVATE_H
#define DROVER_PROTO_RPC_H2_H2_SESSION_PRIVATE_H

#include "proto/rpc/h2/h2_session.h"

/* h2_session.c: ends a session whose peer has exceeded a limit; `blame` names it, NULL = none
 * was. */
void h2_session_calm(struct h2_session *session, const char *blame);
/* h2_session.c: takes `stream` off its session; nghttp2 may still know its id. */
void h2_session_detach(struct h2_stream *stream);

/* h2_stream.c: DATA payload came for `stream`. */
int h2_stream_data(struct h2_stream *stream, const uint8_t *bytes, size_t n);

/* h2_events.c: makes session->h2 with its callbacks and limits, and queues our SETTINGS. */
MUST_CHECK int h2_events_start(struct h2_session *session);

#endif

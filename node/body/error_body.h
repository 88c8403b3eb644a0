/*
 * error_body.h - an error's body in the shape of the API that the client speaks.  Pure.
 */
#ifndef DROVER_NODE_BODY_ERROR_BODY_H
#define DROVER_NODE_BODY_ERROR_BODY_H

struct buf;

/* Appends the body of a 4xx that says `text`. */
void error_body_write(struct buf *out, int operation, const char *text);

#endif

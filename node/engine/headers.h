/* headers.h - which HTTP headers pass between a client and an engine.  Pure. */
#ifndef DROVER_NODE_HEADERS_H
#define DROVER_NODE_HEADERS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

struct engine_header;

#define HEADERS_MAX             16
#define HEADERS_MAX_NAME_BYTES  64
#define HEADERS_MAX_VALUE_BYTES 1024

/*
 * May this request header go to the engine?  Credentials and cookies are the coordinator's
 * business, and x-conversation-id makes a llama-server go on after a disconnect.
 */
MUST_CHECK bool headers_to_engine(const char *name, const char *value);

/* May this response header go back?  Content-Type travels apart from the headers. */
MUST_CHECK bool headers_to_client(const char *name, const char *value);

/* Points `count` headers at their names and values, which follow each other in `text`, each
 * with its NUL. */
void headers_point(struct engine_header *headers, size_t count, const char *text);

/* Printable ASCII, at most HEADERS_MAX_VALUE_BYTES. */
MUST_CHECK bool headers_value_ok(const char *value);

/* Splits "Name: value\r\n" into a lower-case name and a trimmed value.  False: it is none, or
 * too long. */
MUST_CHECK bool headers_split(const char *line, size_t n, char *name, size_t name_cap,
                              char *value, size_t value_cap);

#endif

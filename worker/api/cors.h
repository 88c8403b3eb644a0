/*
 * cors.h - what a browser wants to know before it lets a web page use the API.  Pure.
 *
 * Which pages may is base/secure/origins.h's.  No header here allows cookies or other
 * credentials that a browser adds by itself: clients show their key themselves.
 * Source: the Fetch standard, "CORS protocol", and the Private Network Access draft.
 */
#ifndef DROVER_WORKER_CORS_H
#define DROVER_WORKER_CORS_H

#include <stdbool.h>
#include <stddef.h>

#define CORS_MAX_HEADERS 6

struct cors_header {
    const char *name;  /* static, lower case */
    const char *value; /* static, or the caller's */
};

/* For any answer to a page of this origin: it may be read, and so may our headers.  Returns how
 * many. */
size_t cors_answer(struct cors_header out[CORS_MAX_HEADERS], const char *origin);

/* For a question whether a request may be sent, which asks for the headers `asked` (NULL:
 * none), and perhaps from a public page to a private network.  Every method and every header
 * may be: who serves the request decides about them. */
size_t cors_preflight(struct cors_header out[CORS_MAX_HEADERS], const char *origin,
                      const char *asked, bool private_network);

#endif

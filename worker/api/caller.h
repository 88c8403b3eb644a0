/*
 * caller.h - the caller of a request: API keys, as the clients of each API send them.
 *
 * OpenAI's and Ollama's clients send `Authorization: Bearer KEY`, Anthropic's `x-api-key: KEY`,
 * Azure's `api-key: KEY`; each is taken on every path.  The key stays where the caller has it:
 * it is not copied, not logged and not forwarded; only its name in the keys file is.
 */
#ifndef DROVER_WORKER_API_CALLER_H
#define DROVER_WORKER_API_CALLER_H

#include <stdbool.h>
#include <stddef.h>

#include "base/attrs.h"

struct api_keys;
struct error;
struct scoreboard;

/* The accepted keys; with none in the configuration no client needs one. */
struct callers {
    const struct api_keys *keys; /* borrowed */
    int *usage_rows; /* owned; shm/facts/usage.h's row of each key; NULL when no keys */
};

/* DRV_ENOMEM. */
MUST_CHECK int callers_init(struct callers *callers, const struct api_keys *keys,
                            struct scoreboard *board, struct error *err);
void callers_finish(struct callers *callers);

/* The values of the three headers; a length of 0: it is not there. */
struct caller_headers {
    const char *authorization;
    size_t authorization_len;
    const char *x_api_key;
    size_t x_api_key_len;
    const char *api_key; /* as Azure's clients send it */
    size_t api_key_len;
};

/* True: *name and *usage_row are those of the key.  False: it is not among them, or none was
 * shown; *shown says which. */
MUST_CHECK bool callers_find(const struct callers *callers,
                             const struct caller_headers *headers, const char **name,
                             int *usage_row, bool *shown);

#endif

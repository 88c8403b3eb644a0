/* access_log.h - one JSON line per request, with its outcome.  Never bodies, never keys. */
#ifndef DROVER_WORKER_HTTP_ACCESS_LOG_H
#define DROVER_WORKER_HTTP_ACCESS_LOG_H

#include <stdbool.h>
#include <stdint.h>

struct log_sink;

/* Strings are borrowed for the call; NULL is written as null, as are figures that are unknown
 * (0 where marked *). */
struct access_record {
    const char *id;
    const char *execution;     /* what nodes know it by */
    const char *client;        /* address */
    const char *key;           /* name of the API key */
    const char *method, *path; /* path without query */
    const char *model;         /* as the client named it */
    const char *node;          /* of the last attempt */
    const char *policy;
    const char *outcome; /* "ok", "client_gone", "client_error", "node_error", "timeout",
                            "rejected", "local" */
    const char *reason;  /* api_error_reason(), or NULL */
    unsigned status;     /* as sent; 499 when the client left before the end */
    uint32_t attempts;
    const char *hedge; /* "won", "lost", or NULL: there was none */
    bool stream;
    uint64_t bytes_in, bytes_out;
    uint32_t prompt_tokens, cached_tokens, output_tokens; /* * */
    uint64_t queue_us;
    uint64_t ttft_us; /* * receipt to first content byte */
    uint64_t total_us;
};

void access_log_write(struct log_sink *sink, const struct access_record *record);

#endif

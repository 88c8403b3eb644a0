/* cors.c - what a browser wants to know before it lets a web page use the API. */
#include "worker/api/cors.h"

/* A list, as no pattern can stand for "x-drover-". */
#define EXPOSED                                                                               \
    "x-request-id, request-id, retry-after, x-should-retry, x-drover-reason, x-drover-node, " \
    "x-drover-model, x-drover-queue-ms, x-drover-attempts, x-drover-policy, "                 \
    "x-drover-session, x-drover-estimate, openai-processing-ms, openai-model"

/* A browser asks anew after this; Chromium takes no more than two hours. */
#define MAX_AGE_S "7200"

static size_t add(struct cors_header *out, size_t at, const char *name, const char *value)
{
    out[at] = (struct cors_header){name, value};
    return at + 1;
}

size_t cors_answer(struct cors_header out[CORS_MAX_HEADERS], const char *origin)
{
    size_t n = add(out, 0, "access-control-allow-origin", origin);

    n = add(out, n, "vary", "origin");
    return add(out, n, "access-control-expose-headers", EXPOSED);
}

size_t cors_preflight(struct cors_header out[CORS_MAX_HEADERS], const char *origin,
                      const char *asked, bool private_network)
{
    size_t n = add(out, 0, "access-control-allow-origin", origin);

    n = add(out, n, "vary", "origin, access-control-request-headers");
    n = add(out, n, "access-control-allow-methods", "GET, HEAD, POST, DELETE");
    n = add(out, n, "access-control-max-age", MAX_AGE_S);
    if (asked != NULL)
        n = add(out, n, "access-control-allow-headers", asked);
    if (private_network)
        n = add(out, n, "access-control-allow-private-network", "true");
    return n;
}

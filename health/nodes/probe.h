/*
 * probe.h - asks one node, again and again, whether it can serve.
 *
 * A probe has a channel of its own to the node and on it: a health check every interval, a
 * Describe with the first check of each connection and every so often after, and, when asked
 * to, a stream of load reports.  It has no opinion on what follows: it reports, its owner
 * decides.
 *
 * A result is a pass only if the node said SERVING and, when it was asked to describe itself,
 * did so and the owner took the description.
 */
#ifndef DROVER_HEALTH_NODES_PROBE_H
#define DROVER_HEALTH_NODES_PROBE_H

#include <openssl/ssl.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/io/net.h"
#include "base/secure/tokens.h"
#include "proto/drover_inference.pb-c.h"
#include "shm/facts/nodes.h"

struct error;
struct loop;
struct probe; /* opaque */

struct probe_result {
    enum node_reason reason; /* NODE_REASON_NONE = it passed */
    uint32_t rtt_us;         /* of the health check; 0 when there was no answer */
    const char *detail;      /* one line for people; borrowed */
};

struct probe_events {
    void (*on_result)(const struct probe_result *result, void *data);
    /* The node describes itself, in answer to Describe.  Returns NODE_REASON_NONE to accept
     * it, or why the node fails because of it. */
    enum node_reason (*on_describe)(const Drover__V1__DescribeResponse *said, void *data);
    void (*on_load)(const Drover__V1__LoadReport *load, void *data);
};

struct probe_config {
    struct net_addr addr;
    SSL_CTX *tls;         /* borrowed: outlives the probe; NULL = cleartext */
    const char *tls_name; /* copied; NULL = do not verify a name */
    uint64_t interval_us;
    uint64_t timeout_us;
    bool watch_load;     /* keep a stream of load reports open */
    char *const *tokens; /* copied, as by probe_set_tokens() */
};

/* The delay until the next question; the owner sets it as it likes. */
enum probe_pace {
    PROBE_STEADY = 0, /* every interval, give or take 20 % */
    PROBE_DOUBTING, /* a quarter of that, from question to question: the verdict hangs on it */
    PROBE_EAGER,    /* 50 ms: a node has just come and may be ready any moment */
};

/* Starts at once.  None of the events happens before this returns.  DRV_ENOMEM, DRV_ESYS. */
MUST_CHECK int probe_create(struct probe **out, struct loop *loop,
                            const struct probe_config *config,
                            const struct probe_events *events, void *data, struct error *err);
/* Not from inside its own events.  NULL is allowed. */
void probe_destroy(struct probe *probe);

void probe_set_pace(struct probe *probe, enum probe_pace pace);
void probe_set_timing(struct probe *probe, uint64_t interval_us, uint64_t timeout_us);
/* To prove WatchLoad with, newest first; NULL = none.  Copied; a longer one than a token file
 * can hold is none. */
void probe_set_tokens(struct probe *probe, char *const tokens[TOKENS_MAX]);

/* Asks now instead of later (unless an answer is awaited already). */
void probe_now(struct probe *probe);

/* The same, and has the node describe itself. */
void probe_describe(struct probe *probe);

#endif

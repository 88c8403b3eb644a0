/*
 * looks.h - looks at the engine: asks it one path after the other, when a look is due.
 *
 * look_times.h says when and how thoroughly, detect.h what to ask and what the answers mean.
 * The owner reports what becomes of its runs, which is what makes looks due.
 */
#ifndef DROVER_NODE_LOOKS_H
#define DROVER_NODE_LOOKS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "node/engine/curl_loop.h"
#include "node/engine/look/detect.h"
#include "node/engine/look/look_times.h"

struct looks_config {
    struct loop *loop;         /* borrowed, as long as the looks live */
    struct curl_loop *curl;    /* borrowed, the same */
    const char *authorization; /* a header line to send, borrowed for the call; NULL = none */
    uint64_t idle_us;          /* see look_times_init() */
    /* Sets URL and common options of a transfer that asks `path`. */
    void (*prepare)(void *data, CURL *easy, const char *path);
    /* Names the models that requests of ours work with: see detect_busy(). */
    void (*list_busy)(void *data, struct detector *detector);
    /* A look has ended; the facts may be new. */
    void (*on_facts)(void *data);
    void *data; /* of all three */
};

struct looks {
    struct looks_config config;
    struct detector detector;
    struct look_times times;
    struct curl_job job;        /* job.easy owned */
    struct curl_slist *headers; /* owned; the key, or NULL */
    struct buf body;
    char server[64];             /* of the answer that comes in */
    size_t head_bytes;           /* likewise */
    char error[CURL_ERROR_SIZE]; /* libcurl's text */
    struct timer timer;
    uint64_t began_mono_us; /* the look under way */
    uint64_t busy_mono_us;  /* when runs began, after there was none; 0 = there is none */
    uint64_t heard_mono_us; /* when a run last began or got bytes; 0 = never */
    uint32_t runs;          /* of ours, in the engine now */
    uint32_t most_runs;     /* since the look under way began */
    bool others_run;        /* the last look at the load showed more than ours */
    bool public_address;    /* the engine's, as of the last connection */
};

/* How a run ended, as far as looks go. */
enum looks_run_end {
    LOOKS_RUN_ENDED = 0, /* by itself, whole */
    LOOKS_RUN_BROKE,     /* the connection broke, or there was none */
    LOOKS_RUN_LEFT,      /* we closed it before its first token */
    LOOKS_RUN_STOPPED,   /* we closed it after that */
};

/* Begins to look, the first time at once.  DRV_ENOMEM.  looks_finish() is right in any case. */
MUST_CHECK int looks_init(struct looks *looks, const struct looks_config *config);
void looks_finish(struct looks *looks); /* before the curl_loop is finished */

void looks_run_began(struct looks *looks);
void looks_run_ended(struct looks *looks, enum looks_run_end end);

/* Bytes came from the engine. */
void looks_heard(struct looks *looks);

/* Is a full look due, or under way, that begins at `since_mono_us` or later? */
MUST_CHECK bool looks_full_since(const struct looks *looks, uint64_t since_mono_us);

/* Something is not as the facts say: a full look as soon as the rules for trouble allow. */
void looks_doubt(struct looks *looks);

#endif

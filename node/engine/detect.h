/*
 * detect.h - detects which engine answers at a URL, and reads its facts.
 *
 * A look is a short series of GETs.  This module says which path to ask next;
 * node/engine/http.c does the asking, and the readers in node/engine/kinds/ turn the answers
 * into facts.  A full look begins at /v1/models, which every engine has, and settles the kind;
 * a quick look only refreshes the load.  An engine that shows no load gets none invented for
 * it.  Pure.
 */
#ifndef DROVER_NODE_ENGINE_DETECT_H
#define DROVER_NODE_ENGINE_DETECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "node/engine/engine.h"

/* Paths a look may still ask; a bit each. */
enum detect_step {
    DETECT_MODELS = 1 << 0,         /* /v1/models */
    DETECT_OLLAMA_VERSION = 1 << 1, /* /api/version */
    DETECT_VERSION = 1 << 2,        /* /version */
    DETECT_PROPS = 1 << 3,          /* /props */
    DETECT_SLOTS = 1 << 4,          /* /slots */
    DETECT_METRICS = 1 << 5,        /* /metrics */
    DETECT_SERVER_INFO = 1 << 6,    /* /get_server_info */
    DETECT_TAGS = 1 << 7,           /* /api/tags */
    DETECT_PS = 1 << 8,             /* /api/ps */
    DETECT_HEALTH = 1 << 9,         /* /health */
};

struct detector {
    struct engine_facts facts; /* of the last look that ended */
    struct engine_facts next;  /* of the look under way */
    uint32_t todo;             /* steps still to ask */
    uint32_t asking;           /* the step whose answer is awaited; 0 = no look under way */
    uint32_t missing;          /* steps that this engine does not offer */
    bool answered;             /* something in this look got an answer */
    bool slots_seen;           /* /slots was answered in this look */
    unsigned quick;            /* quick looks since the last full one */
};

/* One answer.  status 0: none came (`why` says why, `timed_out` that it was only slow). */
struct detect_answer {
    unsigned status;
    const char *server; /* the Server header, or "" */
    const uint8_t *body;
    size_t n;
    const char *why;
    bool timed_out;
};

void detect_init(struct detector *r);

/* Starts a look; full when it is due.  Returns the first path to ask. */
const char *detect_begin(struct detector *r);

/* Takes the answer to the path asked last.  Returns the next path, or NULL: the look has ended
 * and `facts` is new. */
MUST_CHECK const char *detect_next(struct detector *r, const struct detect_answer *answer);

/* Ends the look under way as if it had not begun: `facts` stay. */
void detect_abandon(struct detector *r);

#endif

/* detect_rig.h - an engine as a table of answers, for tests of detection. */
#ifndef DROVER_TESTS_UNIT_NODE_DETECT_RIG_H
#define DROVER_TESTS_UNIT_NODE_DETECT_RIG_H

#include <criterion/criterion.h>
#include <string.h>

#include "base/attrs.h"
#include "node/engine/look/detect.h"
#include "proto/drover_common.pb-c.h"
#include "stream_rig.h"

#define KIND(name)  DROVER__V1__ENGINE_KIND__ENGINE_KIND_##name
#define STATE(name) DROVER__V1__MODEL_STATE__MODEL_STATE_##name
#define BIT(name)   (UINT32_C(1) << DROVER__V1__OPERATION__OPERATION_##name)

static const struct engine_offer all; /* the operator names no models */

/* An engine as a table of answers; what is not in it is a 404. */
struct page {
    const char *path;
    unsigned status;
    const char *body; /* ' for " */
};

struct site {
    const char *server;
    const struct page *pages;
    size_t count;
    char asked[256]; /* paths of the last look, comma-separated */
};

/* One look at the site, step by step. */
static inline void look_at(struct detector *r, struct site *site, enum look_level level,
                           uint64_t now_us)
{
    const char *path = detect_begin(r, level, now_us);

    site->asked[0] = '\0';
    for (unsigned steps = 0; path != NULL; steps++) {
        struct detect_answer answer = {.status = 404, .server = site->server, .why = ""};
        struct buf body = BUF_INIT;

        cr_assert_lt(steps, 12, "the look does not end");
        (void)strlcat(site->asked, path, sizeof(site->asked));
        (void)strlcat(site->asked, ",", sizeof(site->asked));
        for (size_t i = 0; i < site->count; i++) {
            if (strcmp(site->pages[i].path, path) != 0)
                continue;
            answer.status = site->pages[i].status;
            rig_add(&body, site->pages[i].body);
        }
        answer.body = buf_head(&body);
        answer.n = buf_size(&body);
        if (answer.status == 0) {
            answer.why = "Connection refused";
            answer.timed_out = strcmp(path, "/slots") == 0;
            answer.refused = !answer.timed_out;
        }
        path = detect_next(r, &answer);
        buf_finish(&body);
    }
}

/* A full look at an engine that is not known; else a look at the load. */
static inline void look(struct detector *r, struct site *site)
{
    look_at(r, site, LOOK_LOAD, 1);
}

#define SITE(name, list)                                            \
    {                                                               \
        .server = (name), .pages = (list), .count = ARRAY_LEN(list) \
    }

#endif

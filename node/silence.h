/*
 * silence.h - how long an answer may be silent, and what its silence says of the engine.
 *
 * A request is not cut while its engine shows life: a byte of this answer (a ping, too), a
 * count of work that moves, a model that has been loaded.  Without any of these there is a
 * limit for each part of an answer: until the engine has loaded its model, until the first
 * content, and between two contents.  At the limit the engine is to blame only if it has a
 * count of all its work that was readable and stood still; one that shows less may be at work.
 * While the caller takes no bytes the silence is the caller's, and no limit runs.
 *
 * A llama-server that ends closes its port, and may keep the connections of its answers for
 * half a minute, while looks meet the next one on the port.  So an answer that has begun is
 * lost when a look finds the engine gone, and no byte of it follows.
 *
 * One for each request in an engine.  Pure: instants are arguments, all on the monotonic
 * clock.
 */
#ifndef DROVER_NODE_SILENCE_H
#define DROVER_NODE_SILENCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/attrs.h"

/* 0 = no limit. */
struct silence_limits {
    uint64_t load_us;  /* the engine loads the model */
    uint64_t first_us; /* no content yet */
    uint64_t idle_us;  /* since the last content */
};

/* The engine's state, as it was last looked at. */
struct silence_signs {
    uint64_t work;         /* any figure that changes while the engine works */
    uint64_t read_mono_us; /* when `work` was last read; 0 = the engine shows none */
    bool counts;           /* all of its work changes it */
    bool loading;          /* the model is not in memory yet */
    uint64_t gone_mono_us; /* a look at this instant showed that the process before it has
                              ended, whatever its connections do; 0 = none did */
};

/* Private to silence.c. */
struct silence {
    struct silence_limits limits;
    uint64_t alive_mono_us; /* the last sign of life */
    uint64_t work;          /* at the last look */
    uint32_t signs;         /* of life, so far */
    bool work_known;        /* `work` has been read */
    bool content;           /* some has come */
    bool loading;
    bool paused;            /* the caller takes no bytes */
    uint64_t heard_mono_us; /* the last bytes */
};

enum silence_verdict {
    SILENCE_BORNE = 0,
    SILENCE_STALLED,     /* the engine's count of work was readable, and stood still */
    SILENCE_UNEXPLAINED, /* no sign shows whether the engine works */
    SILENCE_LEFT,        /* the process that began the answer has ended */
};

struct silence_result {
    enum silence_verdict verdict;
    uint64_t limit_us; /* that applies now; 0 = none */
    uint64_t again_us; /* SILENCE_BORNE: time until the next look */
};

/* The engine has just been asked. */
void silence_start(struct silence *s, const struct silence_limits *limits,
                   const struct silence_signs *signs, uint64_t now_mono_us);

/* Bytes of the answer came; `content`: with output in them. */
void silence_heard(struct silence *s, bool content, uint64_t now_mono_us);

/* The caller takes no bytes any more, or takes them again. */
void silence_pause(struct silence *s, bool paused, uint64_t now_mono_us);

MUST_CHECK struct silence_result
silence_look(struct silence *s, const struct silence_signs *signs, uint64_t now_mono_us);

/* How often the engine has shown life: grows with each sign. */
uint32_t silence_signs_of_life(const struct silence *s);

/* No content yet, and the model was not in memory at the last look. */
bool silence_is_loading(const struct silence *s);

/* The thing that has been missing at the limit, for an error's text: "loaded model", "first
 * token", "token". */
const char *silence_missing(const struct silence *s);

#endif

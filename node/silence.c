/* silence.c - how long an answer may be silent, and what its silence says of the engine. */
#include "node/silence.h"

#include "base/clock.h"

/* The longest time between two looks, so that life is passed on while it is fresh. */
#define LOOK_US US_PER_S
/* At the limit, the figure is waited for: two looks at a busy engine come within this. */
#define FIGURE_US (3 * US_PER_S)

/* From a look that finds the engine gone until an answer is lost: another look comes within. */
#define LEFT_US (2 * US_PER_S)

static void note_life(struct silence *s, uint64_t at_mono_us)
{
    s->signs++;
    if (at_mono_us > s->alive_mono_us)
        s->alive_mono_us = at_mono_us;
}

void silence_start(struct silence *s, const struct silence_limits *limits,
                   const struct silence_signs *signs, uint64_t now_mono_us)
{
    *s = (struct silence){
        .limits = *limits,
        .alive_mono_us = now_mono_us,
        .heard_mono_us = now_mono_us,
        .work = signs->work,
        .work_known = signs->read_mono_us != 0,
        .loading = signs->loading,
    };
}

void silence_heard(struct silence *s, bool content, uint64_t now_mono_us)
{
    s->content |= content;
    s->loading = false; /* an engine that answers has its model */
    s->heard_mono_us = now_mono_us;
    note_life(s, now_mono_us);
}

void silence_pause(struct silence *s, bool paused, uint64_t now_mono_us)
{
    s->paused = paused;
    if (now_mono_us > s->alive_mono_us)
        s->alive_mono_us = now_mono_us;
}

static void take_signs(struct silence *s, const struct silence_signs *signs,
                       uint64_t now_mono_us)
{
    if (signs->read_mono_us != 0) {
        /* A figure that falls has changed as well: another request's share of it is over. */
        if (s->work_known && signs->work != s->work)
            note_life(s, signs->read_mono_us);
        s->work = signs->work;
        s->work_known = true;
    }
    if (s->loading && !signs->loading)
        note_life(s, now_mono_us);
    s->loading = signs->loading && !s->content;
}

/* Has the process that began the answer ended since its last bytes? */
static bool is_left(const struct silence *s, const struct silence_signs *signs,
                    uint64_t now_mono_us)
{
    return s->content && !s->paused && signs->gone_mono_us > s->heard_mono_us &&
           now_mono_us >= signs->gone_mono_us + LEFT_US;
}

static uint64_t limit_us(const struct silence *s)
{
    if (s->content)
        return s->limits.idle_us;
    return s->loading ? s->limits.load_us : s->limits.first_us;
}

struct silence_result silence_look(struct silence *s, const struct silence_signs *signs,
                                   uint64_t now_mono_us)
{
    struct silence_result result = {.again_us = LOOK_US};
    uint64_t silent_us, wait_us;
    bool is_read;

    take_signs(s, signs, now_mono_us);
    if (s->paused)
        s->alive_mono_us = s->heard_mono_us = now_mono_us;
    result.limit_us = limit_us(s);
    if (is_left(s, signs, now_mono_us)) {
        result.verdict = SILENCE_LEFT;
        return result;
    }
    silent_us = now_mono_us > s->alive_mono_us ? now_mono_us - s->alive_mono_us : 0;
    if (result.limit_us == 0)
        return result;
    /* A look that began before the limit says nothing of its end. */
    is_read = signs->read_mono_us >= s->alive_mono_us + result.limit_us;
    wait_us = result.limit_us + (s->work_known && !is_read && !s->loading ? FIGURE_US : 0);
    if (silent_us < wait_us) {
        if (result.again_us > wait_us - silent_us)
            result.again_us = wait_us - silent_us;
        if (silent_us < result.limit_us && result.again_us > result.limit_us - silent_us)
            result.again_us = result.limit_us - silent_us;
        return result;
    }
    /* A load does not show in the count of work: what stands still then proves nothing. */
    result.verdict = s->work_known && is_read && signs->counts && !s->loading
                         ? SILENCE_STALLED
                         : SILENCE_UNEXPLAINED;
    return result;
}

uint32_t silence_signs_of_life(const struct silence *s)
{
    return s->signs;
}

bool silence_is_loading(const struct silence *s)
{
    return s->loading;
}

const char *silence_missing(const struct silence *s)
{
    if (s->content)
        return "token";
    return s->loading ? "loaded model" : "first token";
}

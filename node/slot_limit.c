/* slot_limit.c - how many requests an engine runs at once: reported, or learned. */
#include "node/slot_limit.h"

#include <string.h>

#define REFUTED_BY 2u /* runs that waited */
#define CROWDED_BY 2u /* looks in a row */
#define KV_ROOM    0.95f
#define KV_TARGET  0.98f

static uint32_t more_of(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool is_learned(const struct slot_limit *limit)
{
    return limit->said == 0 && limit->min != limit->max;
}

/* True: it is another limit. */
static bool set_limit(struct slot_limit *limit, uint32_t wanted)
{
    uint32_t before = limit->limit;

    if (wanted < limit->min)
        wanted = limit->min;
    limit->limit = wanted > limit->max ? limit->max : wanted;
    return limit->limit != before;
}

void slot_limit_init(struct slot_limit *limit, uint32_t min, uint32_t max)
{
    memset(limit, 0, sizeof(*limit));
    TAILQ_INIT(&limit->runs);
    limit->min = more_of(min, 1);
    limit->max = max == 0 ? SLOT_LIMIT_MOST : max;
    limit->bounded = max != 0;
    limit->first = SLOT_LIMIT_GUESS;
    slot_limit_forget(limit);
}

void slot_limit_forget(struct slot_limit *limit)
{
    struct slot_run *run;

    limit->proven = 1;
    limit->waited_row = limit->crowded_row = 0;
    limit->begin_us = limit->begin_bytes = 0;
    limit->has_figures = limit->small_steps = false;
    limit->preemptions = 0;
    limit->probe_mono_us = limit->backoff_us = 0;
    TAILQ_FOREACH(run, &limit->runs, link) {
        run->judged = true; /* it says something of another engine */
        run->content_mono_us = 0;
    }
    (void)set_limit(limit,
                    limit->said != 0 && limit->min != limit->max ? limit->said : limit->first);
    if (limit->said > limit->limit && !limit->bounded)
        limit->limit = limit->said; /* the bound is one of guesses */
}

void slot_limit_engine(struct slot_limit *limit, uint32_t said, uint32_t first)
{
    if (said == limit->said && first == limit->first)
        return;
    limit->said = said;
    limit->first = first;
    slot_limit_forget(limit);
}

void slot_limit_start(struct slot_limit *limit, struct slot_run *run, size_t bytes,
                      uint64_t now_mono_us)
{
    *run = (struct slot_run){.runs = true, .sent_mono_us = now_mono_us, .bytes = bytes};
    TAILQ_INSERT_TAIL(&limit->runs, run, link);
    run->sent_as = ++limit->count;
}

/* An earlier one has just ended: does the run refute the guess? */
static bool has_waited(const struct slot_limit *limit, const struct slot_run *run,
                       uint64_t now_mono_us)
{
    uint64_t patience_us = limit->begin_us + limit->begin_us / 2;

    if (!is_learned(limit) || limit->has_figures || limit->limit <= limit->proven)
        return false;
    if (run->waited || run->judged || run->content_mono_us != 0 || limit->begin_us == 0 ||
        run->sent_as <= limit->proven)
        return false;
    if (run->bytes > limit->begin_bytes)
        patience_us = (uint64_t)((double)patience_us * (double)run->bytes /
                                 (double)(limit->begin_bytes + 1));
    return run->sent_mono_us + patience_us < now_mono_us;
}

static bool refute_guess(struct slot_limit *limit, uint64_t now_mono_us)
{
    limit->waited_row = 0;
    limit->backoff_us *= 2;
    if (limit->backoff_us < SLOT_LIMIT_PROBE_MIN_US)
        limit->backoff_us = SLOT_LIMIT_PROBE_MIN_US;
    if (limit->backoff_us > SLOT_LIMIT_PROBE_MAX_US)
        limit->backoff_us = SLOT_LIMIT_PROBE_MAX_US;
    limit->probe_mono_us = now_mono_us + limit->backoff_us;
    return set_limit(limit, limit->proven);
}

bool slot_limit_end(struct slot_limit *limit, struct slot_run *run, uint64_t now_mono_us)
{
    struct slot_run *later;

    if (!run->runs)
        return false;
    for (later = TAILQ_NEXT(run, link); later != NULL; later = TAILQ_NEXT(later, link))
        if (has_waited(limit, later, now_mono_us)) {
            later->waited = true;
            limit->waited_row++;
        }
    TAILQ_REMOVE(&limit->runs, run, link);
    run->runs = false;
    limit->count--;
    return limit->waited_row >= REFUTED_BY && refute_guess(limit, now_mono_us);
}

/* The runs that have begun and go on. */
static uint32_t together(const struct slot_limit *limit)
{
    const struct slot_run *run;
    uint32_t n = 0;

    TAILQ_FOREACH(run, &limit->runs, link)
        n += run->content_mono_us != 0 && !run->over;
    return n;
}

/* The whole limit is in use, and shown to work. */
static bool guess_more(struct slot_limit *limit, uint64_t now_mono_us)
{
    uint32_t step =
        limit->backoff_us != 0 || limit->small_steps ? 1 : more_of(1, limit->limit / 2);

    limit->waited_row = 0;
    if (limit->small_steps || now_mono_us < limit->probe_mono_us)
        return false;
    return set_limit(limit, limit->limit + step);
}

/* The time that it takes to begin, averaged over the last few.  A load of the model makes one
 * request slow, and nothing makes it fast: the average follows a short time down at once, and a
 * long one up by a quarter at most. */
static void note_begin(struct slot_limit *limit, const struct slot_run *run)
{
    uint64_t took_us = run->content_mono_us - run->sent_mono_us;
    uint64_t average_us = limit->begin_us;

    if (average_us == 0 || took_us < average_us / 2)
        limit->begin_us = took_us;
    else if (took_us < average_us)
        limit->begin_us -= (average_us - took_us) / 2;
    else
        limit->begin_us += (took_us < 2 * average_us ? took_us - average_us : average_us) / 4;
    limit->begin_bytes =
        limit->begin_bytes == 0 ? run->bytes : (limit->begin_bytes * 3 + run->bytes) / 4;
}

bool slot_limit_content(struct slot_limit *limit, struct slot_run *run, uint64_t now_mono_us)
{
    uint32_t n;

    if (!run->runs || run->judged || !is_learned(limit))
        return false;
    if (run->content_mono_us == 0) {
        run->content_mono_us = now_mono_us;
        if (run->sent_as <= limit->proven)
            note_begin(limit, run);
    }
    if (now_mono_us - run->content_mono_us < SLOT_LIMIT_SETTLE_US)
        return false;
    run->judged = true;
    n = together(limit);
    if (n > limit->proven) {
        limit->proven = n;
        limit->backoff_us = 0;
        limit->waited_row = 0;
    }
    return n >= limit->limit && guess_more(limit, now_mono_us);
}

/* A full limit grows as far as the cache would reach, at most by as much again. */
static uint32_t grown(const struct slot_limit *limit, float kv_used_fraction)
{
    float factor = 2;

    if (limit->small_steps)
        return limit->limit + 1;
    if (kv_used_fraction > KV_TARGET / 2)
        factor = KV_TARGET / kv_used_fraction;
    return more_of(limit->limit + 1, (uint32_t)((float)limit->limit * factor));
}

bool slot_limit_looked(struct slot_limit *limit, const struct slot_figures *figures)
{
    bool preempted = limit->has_figures && figures->preemptions > limit->preemptions;
    uint32_t running = figures->running;

    limit->has_figures = true;
    limit->preemptions = figures->preemptions;
    if (!is_learned(limit))
        return false;
    if (running <= limit->count)
        limit->proven = more_of(limit->proven, running);
    limit->crowded_row =
        figures->waiting > more_of(2, running / 4) ? limit->crowded_row + 1 : 0;
    if (preempted) {
        limit->small_steps = true;
        return set_limit(limit, running - running / 20 - (running > 1));
    }
    if (limit->crowded_row >= CROWDED_BY)
        return set_limit(limit, running + more_of(2, running / 8));
    if (limit->count >= limit->limit && figures->waiting == 0 &&
        figures->kv_used_fraction < KV_ROOM)
        return set_limit(limit, grown(limit, figures->kv_used_fraction));
    return false;
}

enum slot_source slot_limit_source(const struct slot_limit *limit)
{
    if (limit->min == limit->max)
        return SLOT_SOURCE_CONFIGURED;
    if (limit->said != 0)
        return SLOT_SOURCE_ENGINE;
    return limit->limit <= limit->proven || limit->has_figures ? SLOT_SOURCE_LEARNED
                                                               : SLOT_SOURCE_GUESSED;
}

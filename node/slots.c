/* slots.c - which requests run now, which wait, which are refused. */
#include "node/slots.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

void slots_init(struct slots *a, uint32_t slots, uint32_t queue)
{
    memset(a, 0, sizeof(*a));
    TAILQ_INIT(&a->waiters);
    TAILQ_INIT(&a->running);
    slots_resize(a, slots, queue);
}

void slots_resize(struct slots *a, uint32_t slots, uint32_t queue)
{
    a->slots = slots == 0 ? 1 : slots;
    a->queue = queue;
}

uint32_t slots_busy(const struct slots *a)
{
    return a->active + a->lingering + a->foreign;
}

/* The first of the active runs of this model, or NULL. */
static struct waiter *run_of(const struct slots *a, uint64_t model)
{
    struct waiter *run;

    TAILQ_FOREACH(run, &a->running, link)
        if (run->model == model)
            break;
    return run;
}

/* May it join those that run? */
static bool has_room(const struct slots *a, const struct waiter *waiter)
{
    uint32_t models = 0, memory = a->in_memory + waiter->loads;
    const struct waiter *run;
    bool starting = false, underway = false;

    if (slots_busy(a) >= a->slots)
        return false;
    if (a->models == 0 || run_of(a, waiter->model) != NULL)
        return true;
    TAILQ_FOREACH(run, &a->running, link) {
        underway |= !run->arrived;
        if (run != run_of(a, run->model))
            continue;
        models++;
        memory += run->loads;
        starting |= run->loads;
    }
    if (models >= a->models)
        return false;
    if (a->in_memory < a->models && memory <= a->models)
        return true; /* nothing has to go */
    /* One that looks loaded is being unloaded; or this run would have one unloaded that looks
     * idle, because our request is not there yet. */
    return !starting && !(underway && (waiter->loads || a->doubted));
}

void slots_retake(struct slots *a, struct waiter *waiter)
{
    const struct waiter *run = run_of(a, waiter->model);

    a->active++;
    waiter->runs = true;
    waiter->arrived = false;
    waiter->seen = false;
    waiter->loads = run != NULL ? run->loads : waiter->loads || a->doubted;
    TAILQ_INSERT_TAIL(&a->running, waiter, link);
}

/* A model has been loaded, or may have been: looks from before do not show it. */
static void note_load(struct slots *a, uint64_t now_mono_us)
{
    a->known_mono_us = now_mono_us;
    a->doubted |= a->in_memory >= a->models;
}

bool slots_answered(struct slots *a, struct waiter *waiter, uint64_t now_mono_us)
{
    if (a->models == 0 || !waiter->runs || (waiter->arrived && !waiter->loads))
        return false;
    waiter->arrived = true;
    if (waiter->loads) {
        note_load(a, now_mono_us);
        a->in_memory += a->in_memory < a->models;
        slots_model(a, waiter->model, true);
    }
    return true;
}

bool slots_models(struct slots *a, uint32_t models, uint32_t in_memory, uint64_t asked_mono_us)
{
    struct waiter *run;

    a->models = models;
    if (models == 0 || asked_mono_us <= a->known_mono_us)
        return false;
    a->known_mono_us = asked_mono_us;
    a->in_memory = in_memory;
    a->doubted = false;
    TAILQ_FOREACH(run, &a->running, link) {
        run->arrived |= run->seen; /* the look before may be older than the run */
        run->seen = true;
    }
    return true;
}

void slots_model(struct slots *a, uint64_t model, bool in_memory)
{
    struct waiter *waiter;

    TAILQ_FOREACH(waiter, &a->running, link)
        if (waiter->model == model && in_memory)
            waiter->loads = false;
    TAILQ_FOREACH(waiter, &a->waiters, link)
        if (waiter->model == model)
            waiter->loads = !in_memory;
}

bool slots_is_full(const struct slots *a, const struct waiter *waiter)
{
    return a->queued >= a->queue && (a->queued != 0 || !has_room(a, waiter));
}

enum slots_admit slots_ask(struct slots *a, struct waiter *waiter)
{
    struct waiter *ahead;

    if (a->queued == 0 && has_room(a, waiter)) {
        slots_retake(a, waiter);
        return SLOTS_ADMIT_NOW;
    }
    if (a->queued >= a->queue)
        return SLOTS_ADMIT_FULL;
    TAILQ_FOREACH_REVERSE(ahead, &a->waiters, waiters, link)
        if (ahead->priority >= waiter->priority)
            break;
    if (ahead == NULL)
        TAILQ_INSERT_HEAD(&a->waiters, waiter, link);
    else
        TAILQ_INSERT_AFTER(&a->waiters, ahead, waiter, link);
    waiter->waits = true;
    a->queued++;
    return SLOTS_ADMIT_QUEUED;
}

void slots_leave(struct slots *a, struct waiter *waiter)
{
    if (!waiter->waits)
        return;
    TAILQ_REMOVE(&a->waiters, waiter, link);
    waiter->waits = false;
    a->queued--;
}

struct waiter *slots_next(struct slots *a)
{
    struct waiter *waiter = TAILQ_FIRST(&a->waiters);

    if (waiter == NULL || !has_room(a, waiter))
        return NULL;
    slots_leave(a, waiter);
    slots_retake(a, waiter);
    return waiter;
}

void slots_end(struct slots *a, struct waiter *waiter, bool lingers, uint64_t now_mono_us)
{
    assert(waiter->runs && a->active > 0);
    a->active--;
    waiter->runs = false;
    TAILQ_REMOVE(&a->running, waiter, link);
    if (a->models != 0 && waiter->loads && run_of(a, waiter->model) == NULL)
        note_load(a, now_mono_us);
    if (!lingers)
        return;
    a->lingering++;
    a->lingered_mono_us = now_mono_us;
}

bool slots_question(struct slots *a)
{
    if (a->questions >= SLOTS_MAX_QUESTIONS)
        return false;
    a->questions++;
    return true;
}

void slots_question_end(struct slots *a)
{
    assert(a->questions > 0);
    a->questions--;
}

void slots_looked(struct slots *a, uint32_t running, uint64_t asked_mono_us)
{
    uint32_t others = running > a->active ? running - a->active : 0;
    uint32_t seen;

    /* A look from before the last cancellation says nothing about it. */
    if (asked_mono_us > a->lingered_mono_us && a->lingering > others)
        a->lingering = others;
    if (asked_mono_us > a->lingered_mono_us + SLOTS_LINGER_MAX_US)
        a->lingering = 0;
    seen = others > a->lingering ? others - a->lingering : 0;
    /* One look may have crossed a run of ours that just ended. */
    a->foreign = seen < a->foreign_seen ? seen : a->foreign_seen;
    a->foreign_seen = seen;
}

uint32_t slots_position(const struct slots *a, const struct waiter *waiter)
{
    const struct waiter *ahead;
    uint32_t position = 1;

    TAILQ_FOREACH(ahead, &a->waiters, link) {
        if (ahead == waiter)
            break;
        position++;
    }
    return position;
}

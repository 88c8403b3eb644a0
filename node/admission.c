/* admission.c - who may use the engine now, who waits, who is refused. */
#include "node/admission.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

void admission_init(struct admission *a, uint32_t slots, uint32_t queue)
{
    memset(a, 0, sizeof(*a));
    TAILQ_INIT(&a->waiters);
    admission_resize(a, slots, queue);
}

void admission_resize(struct admission *a, uint32_t slots, uint32_t queue)
{
    a->slots = slots == 0 ? 1 : slots;
    a->queue = queue;
}

uint32_t admission_busy(const struct admission *a)
{
    return a->active + a->lingering + a->foreign;
}

enum admit admission_ask(struct admission *a, struct waiter *waiter)
{
    struct waiter *ahead;

    if (a->queued == 0 && admission_busy(a) < a->slots) {
        a->active++;
        return ADMIT_NOW;
    }
    if (a->queued >= a->queue)
        return ADMIT_FULL;
    TAILQ_FOREACH_REVERSE(ahead, &a->waiters, waiters, link)
        if (ahead->priority >= waiter->priority)
            break;
    if (ahead == NULL)
        TAILQ_INSERT_HEAD(&a->waiters, waiter, link);
    else
        TAILQ_INSERT_AFTER(&a->waiters, ahead, waiter, link);
    waiter->waits = true;
    a->queued++;
    return ADMIT_QUEUED;
}

void admission_leave(struct admission *a, struct waiter *waiter)
{
    if (!waiter->waits)
        return;
    TAILQ_REMOVE(&a->waiters, waiter, link);
    waiter->waits = false;
    a->queued--;
}

struct waiter *admission_next(struct admission *a)
{
    struct waiter *waiter = TAILQ_FIRST(&a->waiters);

    if (waiter == NULL || admission_busy(a) >= a->slots)
        return NULL;
    admission_leave(a, waiter);
    a->active++;
    return waiter;
}

void admission_end(struct admission *a, bool lingers, uint64_t now_mono_us)
{
    assert(a->active > 0);
    a->active--;
    if (!lingers)
        return;
    a->lingering++;
    a->lingered_mono_us = now_mono_us;
}

bool admission_question(struct admission *a)
{
    if (a->questions >= ADMISSION_MAX_QUESTIONS)
        return false;
    a->questions++;
    return true;
}

void admission_question_end(struct admission *a)
{
    assert(a->questions > 0);
    a->questions--;
}

void admission_looked(struct admission *a, uint32_t running, uint64_t asked_mono_us)
{
    uint32_t others = running > a->active ? running - a->active : 0;
    uint32_t seen;

    /* A look from before the last cancellation says nothing about it. */
    if (asked_mono_us > a->lingered_mono_us && a->lingering > others)
        a->lingering = others;
    if (asked_mono_us > a->lingered_mono_us + ADMISSION_LINGER_MAX_US)
        a->lingering = 0;
    seen = others > a->lingering ? others - a->lingering : 0;
    /* One look may have crossed a run of ours that just ended. */
    a->foreign = seen < a->foreign_seen ? seen : a->foreign_seen;
    a->foreign_seen = seen;
}

uint32_t admission_position(const struct admission *a, const struct waiter *waiter)
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

/* admission.c - may one more request join the queue? */
#include "policy/queue/admission.h"

#include "base/clock.h"

#define RETURN_MAX_S 60u   /* client libraries ignore a longer Retry-After */
#define SECONDS_MAX  3600u /* an estimate is worth no more */

/* So many places come free in this time; UINT64_MAX = not known. */
static uint64_t time_for(const struct admission_queue *queue, double places)
{
    double us;

    if (queue->places_per_s <= 0)
        return UINT64_MAX;
    us = places / queue->places_per_s * (double)US_PER_S;
    return us < 1e15 ? (uint64_t)us : UINT64_C(1000000000000000);
}

void admission_spread(double *load, const uint16_t *nodes, size_t count, double waiting)
{
    for (size_t i = 0; i < count; i++)
        load[nodes[i]] += waiting / (double)count;
}

double admission_sum(const double *load, const uint16_t *nodes, size_t count)
{
    double sum = 0;

    for (size_t i = 0; i < count; i++)
        sum += load[nodes[i]];
    return sum;
}

double admission_ahead(double others, double own, double own_before)
{
    if (others < 0)
        others = 0;
    return own <= 0 ? others : own_before + others * (own_before / own);
}

bool admission_allows(const struct admission_queue *queue)
{
    if (queue->waiting >= queue->max_waiting)
        return false;
    if (queue->ahead < queue->slots || queue->places_per_s <= 0)
        return true;
    return admission_wait_us(queue) <= admission_limit_us(queue);
}

uint64_t admission_limit_us(const struct admission_queue *queue)
{
    uint64_t shorter = time_for(queue, queue->slots);

    if (shorter < ADMISSION_SHORT_US)
        shorter = ADMISSION_SHORT_US;
    return queue->overloaded && shorter < queue->max_wait_us ? shorter : queue->max_wait_us;
}

uint64_t admission_wait_us(const struct admission_queue *queue)
{
    uint64_t wait = time_for(queue, queue->ahead + 1);

    return wait == UINT64_MAX ? 0 : wait;
}

unsigned admission_return_s(const struct admission_queue *queue, uint64_t now_mono_us,
                            double share, uint64_t *last_return_mono_us)
{
    uint64_t wait = admission_wait_us(queue), limit = admission_limit_us(queue);
    uint64_t at = now_mono_us + (wait > limit ? wait - limit : 0);

    if (at < *last_return_mono_us)
        at = *last_return_mono_us;
    if (queue->places_per_s > 0)
        at += time_for(queue, 1 / share);
    if (at > now_mono_us + RETURN_MAX_S * US_PER_S)
        at = now_mono_us + RETURN_MAX_S * US_PER_S;
    *last_return_mono_us = at;
    return admission_seconds(at - now_mono_us);
}

unsigned admission_seconds(uint64_t us)
{
    uint64_t seconds = us / US_PER_S + (us % US_PER_S != 0);

    if (seconds > SECONDS_MAX)
        return SECONDS_MAX;
    return seconds == 0 ? 1 : (unsigned)seconds;
}

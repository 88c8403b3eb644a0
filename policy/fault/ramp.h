/*
 * ramp.h - how many slots of a node are open, after it has come back.  Pure.
 *
 * A node that returns has cold caches, and often the cause of its absence: its slots open one
 * after the other, the first at once and the last at the end of the ramp.
 */
#ifndef DROVER_POLICY_RAMP_H
#define DROVER_POLICY_RAMP_H

#include <stdint.h>

/* `ramp_us` 0: all at once. */
static inline uint32_t ramp_slots(uint32_t slots, uint64_t since_us, uint64_t ramp_us)
{
    if (slots <= 1 || since_us >= ramp_us)
        return slots;
    return 1 + (uint32_t)((uint64_t)(slots - 1) * since_us / ramp_us);
}

/* When so many of the slots are open, the ramp began that long ago.  `open` < slots. */
static inline uint64_t ramp_since_us(uint32_t slots, uint32_t open, uint64_t ramp_us)
{
    if (open <= 1)
        return 0;
    return (ramp_us * (open - 1) + slots - 2) / (slots - 1);
}

#endif

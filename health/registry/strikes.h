/*
 * strikes.h - addresses that failed too often of late.  Pure.
 *
 * A bucket for each address that failed recently: a failure takes one, time gives one back.
 * With all buckets in use the fullest, the one with the fewest failures, makes room.
 */
#ifndef DROVER_HEALTH_STRIKES_H
#define DROVER_HEALTH_STRIKES_H

#include <stdbool.h>
#include <stdint.h>

#define STRIKES_PLACES    128u
#define STRIKES_ALLOWED   10u               /* failures in a burst */
#define STRIKES_REFILL_US UINT64_C(1000000) /* for one to be forgiven */

struct strikes_place {
    uint64_t key;           /* of the address; 0 = unused */
    uint64_t clear_mono_us; /* when all is forgiven */
};

struct strikes {
    struct strikes_place place[STRIKES_PLACES];
};

/* `key` is the peer's net_peer_key(); 0 is not limited. */
void strikes_note(struct strikes *strikes, uint64_t key, uint64_t now_mono_us);
bool strikes_blocked(const struct strikes *strikes, uint64_t key, uint64_t now_mono_us);

#endif

/*
 * hash.h - a 64-bit hash of short names, the same in every process and build: FNV-1a (Fowler,
 * Noll, Vo).  Not for names that a client chooses in bulk: it could make them collide.
 */
#ifndef DROVER_BASE_HASH_H
#define DROVER_BASE_HASH_H

#include <stdint.h>

#define HASH_BASIS  UINT64_C(0xcbf29ce484222325)
#define HASH_GOLDEN UINT64_C(0x9e3779b97f4a7c15) /* 2^64 over the golden ratio; odd */

/* One step: the hash of what came before and one number more. */
static inline uint64_t hash_mix(uint64_t hash, uint64_t n)
{
    return (hash ^ n) * UINT64_C(0x100000001b3);
}

/* splitmix64's finisher: every bit of the input moves every bit of the output. */
static inline uint64_t hash_spread(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* Never 0. */
static inline uint64_t hash_text(const char *text)
{
    uint64_t hash = HASH_BASIS;

    for (; *text != '\0'; text++)
        hash = hash_mix(hash, (unsigned char)*text);
    return hash == 0 ? 1 : hash;
}

#endif

/*
 * seqlock.h - data longer than a word, guarded by a sequence counter.  Only for shm/.
 *
 * One writer at a time makes the counter odd, stores the words, and makes it even; a reader
 * whose two looks at the counter gave the same even number has a consistent copy.  There are no
 * fences: every word is stored with release and loaded with acquire order, which costs nothing
 * on x86 and can be followed by ThreadSanitizer.  Why that is enough: if a reader got any word
 * of an update, it has synchronised with that word's store, which comes after the store that
 * made the counter odd; so its second look sees that odd value or a later one, and differs from
 * the first.  And a first look that sees an even value has, by the release that wrote it, all
 * words of that update or newer ones.
 *
 * A writer that dies in between leaves an odd counter: readers keep what they had, and the next
 * writer writes anew.
 */
#ifndef DROVER_SHM_SEQLOCK_H
#define DROVER_SHM_SEQLOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A reader gives up after this many torn copies. */
#define SEQLOCK_TRIES 64

/* Hints to the processor that this is a spinning loop. */
static inline void seqlock_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* An update begins: the counter becomes odd.  (It may be odd already, after a dead writer.) */
static inline void seqlock_begin(_Atomic uint32_t *seq)
{
    uint32_t now = atomic_load_explicit(seq, memory_order_relaxed);

    atomic_store_explicit(seq, now | 1u, memory_order_relaxed);
}

/* It ends: the counter becomes even, and different from what it was before. */
static inline void seqlock_end(_Atomic uint32_t *seq)
{
    uint32_t now = atomic_load_explicit(seq, memory_order_relaxed);

    atomic_store_explicit(seq, (now | 1u) + 1u, memory_order_release);
}

/* Between begin and end.  `bytes` need not be a multiple of 8. */
static inline void seqlock_store(_Atomic uint64_t *to, const void *from, size_t bytes)
{
    size_t at;

    for (at = 0; at + 8 <= bytes; at += 8) {
        uint64_t word;

        memcpy(&word, (const char *)from + at, sizeof(word));
        atomic_store_explicit(&to[at / 8], word, memory_order_release);
    }
    if (at < bytes) {
        uint64_t word = 0;

        memcpy(&word, (const char *)from + at, bytes - at);
        atomic_store_explicit(&to[at / 8], word, memory_order_release);
    }
}

/* Copies without looking at the counter. */
static inline void seqlock_load(void *to, const _Atomic uint64_t *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = atomic_load_explicit(&from[at / 8], memory_order_acquire);

        memcpy((char *)to + at, &word, bytes - at < 8 ? bytes - at : 8);
    }
}

/* A consistent copy, or false after SEQLOCK_TRIES. */
static inline bool seqlock_read(void *to, const _Atomic uint64_t *from, size_t bytes,
                                const _Atomic uint32_t *seq)
{
    for (int i = 0; i < SEQLOCK_TRIES; i++) {
        uint32_t before = atomic_load_explicit(seq, memory_order_acquire);

        if ((before & 1u) == 0) {
            seqlock_load(to, from, bytes);
            if (atomic_load_explicit(seq, memory_order_relaxed) == before)
                return true;
        }
        seqlock_pause();
    }
    return false;
}

#endif

/*
 * prefix.c - the index of prompt prefixes.
 *
 * A hash belongs to one set of four entries, two cache lines.  An entry is a hash and six
 * holders: node, low bits of its generation, second of its last use.  When a seventh node gets
 * the same window (the first windows of a shared system prompt, with many nodes) the hash takes
 * a second entry of its set, so up to 24 nodes can hold it.  Readers join all entries that
 * carry the hash, which also makes it harmless when two workers insert it at once.
 *
 * When a set is full, the least recently used goes: the oldest entry of other hashes, or, if
 * that was used more recently, the oldest holder of this one.  Uses are known to the second;
 * that a use is written only once a second keeps the cache lines of common windows shared.
 *
 * Nothing is locked.  Changing the hash of an entry is a claim by compare-and-swap: it becomes
 * a "busy" value first, then the holders are stored, then the new hash appears.  Readers find
 * either hash or none.  A worker that dies in between leaves a busy entry, which any worker may
 * take after BUSY_STALE_S.  Adding a holder is a compare-and-swap on its word, checked against
 * the hash afterwards.  There remain races of a few instructions that credit a node with a
 * window it has not got, or lose one: an estimate is off, once.
 */
#include "shm/share/prefix.h"

#include <stdbool.h>
#include <string.h>

#include "base/clock.h"
#include "shm/segment.h"

static_assert(PREFIX_DEFAULT_ENTRIES == SB_PREFIX_DEFAULT_ENTRIES, "new layout version");
static_assert(PREFIX_MAX_ENTRIES == SB_PREFIX_MAX_ENTRIES, "new layout version");

#define BUSY_STALE_S 3u
#define STAMPS       16383u /* 1..16383, about four and a half hours; 0 means no holder */
#define AHEAD        60u    /* stamps this far in the future are another worker's newer clock */
#define FETCH_AHEAD  8u     /* windows */
#define NO_WAY       SB_PREFIX_WAYS

/* The holder without the stamp: node and low bits of the generation. */
#define HOLDER_WHO(word)        ((word)&0x3ffffu)
#define HOLDER_NODE(word)       ((word)&0x3ffu)
#define HOLDER_GENERATION(word) ((uint8_t)((word) >> 10))
#define HOLDER_STAMP(word)      ((word) >> 18)

static uint32_t make_who(unsigned node, uint32_t generation)
{
    return (uint32_t)(uint8_t)generation << 10 | (uint32_t)node;
}

static uint32_t stamp_of(uint64_t now_mono_us)
{
    return 1 + (uint32_t)(now_mono_us / US_PER_S % STAMPS);
}

/* Seconds since a use. */
static uint32_t age_of(uint32_t stamp, uint32_t now)
{
    uint32_t age = (now + STAMPS - stamp % STAMPS) % STAMPS;

    return age > STAMPS - AHEAD ? 0 : age;
}

/* Is that a node, and still the same one?  Inline, because a decision asks it of every window's
 * holders. */
static inline __attribute__((always_inline)) bool holder_live(const struct scoreboard *board,
                                                              uint32_t word)
{
    const struct sb_hot *hot = segment_hot(board, HOLDER_NODE(word));

    return word != 0 && hot != NULL &&
           (uint8_t)segment_generation(hot) == HOLDER_GENERATION(word);
}

/* Small values mean something else in an entry; no real hash is lost by moving them. */
static uint64_t usable(uint64_t hash)
{
    return hash < SB_PREFIX_RESERVED ? hash + SB_PREFIX_RESERVED : hash;
}

/* By the high bits, so that the number of sets need not be a power of two. */
static uint32_t scale(uint64_t hash, uint32_t sets)
{
    return (uint32_t)((hash >> 32) * sets >> 32);
}

static struct sb_prefix_set *set_of(const struct scoreboard *board, uint64_t hash)
{
    return segment_prefix_set(board, scale(usable(hash), board->geometry.n_prefix_sets));
}

static void fetch(const struct sb_prefix_set *set)
{
    __builtin_prefetch(&set->way[0]);
    __builtin_prefetch(&set->way[SB_PREFIX_WAYS / 2]);
}

/* ---- writing ---- */

/* Is a worker filling the entry whose `hash` is this? */
static bool entry_busy(uint64_t hash, uint32_t now)
{
    return hash != 0 && hash < SB_PREFIX_RESERVED &&
           age_of((uint32_t)hash - 1, now) < BUSY_STALE_S;
}

/* Seconds since the last use of an entry; UINT32_MAX if it is free to take. */
static uint32_t entry_age(const struct scoreboard *board, const struct sb_prefix_entry *entry,
                          uint64_t hash, uint32_t now)
{
    uint32_t least = UINT32_MAX;

    if (hash < SB_PREFIX_RESERVED)
        return UINT32_MAX;
    for (unsigned i = 0; i < SB_PREFIX_HOLDERS; i++) {
        uint32_t word = atomic_load_explicit(&entry->holder[i], memory_order_relaxed);
        uint32_t age = age_of(HOLDER_STAMP(word), now);

        if (age < least && holder_live(board, word))
            least = age;
    }
    return least;
}

/* Makes the entry one of `hash` with one holder; gives up when another worker changes it. */
static void take_entry(struct sb_prefix_entry *entry, uint64_t seen, uint64_t hash,
                       uint32_t word)
{
    uint64_t busy = 1 + HOLDER_STAMP(word);

    if (!atomic_compare_exchange_strong_explicit(&entry->hash, &seen, busy,
                                                 memory_order_acquire, memory_order_relaxed))
        return;
    for (unsigned i = 0; i < SB_PREFIX_HOLDERS; i++)
        atomic_store_explicit(&entry->holder[i], i == 0 ? word : 0, memory_order_release);
    (void)atomic_compare_exchange_strong_explicit(&entry->hash, &busy, hash,
                                                  memory_order_release, memory_order_relaxed);
}

/* Where a holder of some hash may go. */
struct place {
    _Atomic uint32_t *holder; /* NULL: nowhere */
    _Atomic uint64_t *hash;   /* of its entry */
    uint32_t seen;            /* what is there */
    uint32_t age;             /* since its last use; UINT32_MAX = free or of a node that left */
};

static void put_holder(const struct place *place, uint64_t hash, uint32_t word)
{
    uint32_t seen = place->seen;

    if (!atomic_compare_exchange_strong_explicit(place->holder, &seen, word,
                                                 memory_order_release, memory_order_relaxed))
        return;
    if (atomic_load_explicit(place->hash, memory_order_acquire) != hash) {
        seen = word; /* the entry went to another hash meanwhile: the node has not got that */
        (void)atomic_compare_exchange_strong_explicit(
            place->holder, &seen, 0, memory_order_release, memory_order_relaxed);
    }
}

/* Looks for the node in an entry of the hash.  True: it is there, and its use has been noted.
 */
static bool note_use(struct sb_prefix_entry *entry, uint64_t hash, uint32_t word)
{
    for (unsigned i = 0; i < SB_PREFIX_HOLDERS; i++) {
        uint32_t seen = atomic_load_explicit(&entry->holder[i], memory_order_relaxed);

        if (HOLDER_WHO(seen) != HOLDER_WHO(word) || seen == 0)
            continue;
        if (seen != word) {
            struct place here = {&entry->holder[i], &entry->hash, seen, 0};

            put_holder(&here, hash, word);
        }
        return true;
    }
    return false;
}

/* `place` becomes the best one for the node so far. */
static void find_place(const struct scoreboard *board, struct sb_prefix_entry *entry,
                       uint32_t word, struct place *place)
{
    for (unsigned i = 0; i < SB_PREFIX_HOLDERS; i++) {
        uint32_t seen = atomic_load_explicit(&entry->holder[i], memory_order_relaxed);
        struct place here = {&entry->holder[i], &entry->hash, seen, UINT32_MAX};

        if (holder_live(board, seen))
            here.age = age_of(HOLDER_STAMP(seen), HOLDER_STAMP(word));
        if (place->holder == NULL || here.age > place->age)
            *place = here;
    }
}

static void note_window(struct scoreboard *board, uint64_t hash, uint32_t word)
{
    struct sb_prefix_set *set = set_of(board, hash);
    struct place place = {0};
    unsigned victim = NO_WAY;
    uint32_t victim_age = 0;
    uint64_t seen[SB_PREFIX_WAYS];

    hash = usable(hash);
    for (unsigned w = 0; w < SB_PREFIX_WAYS; w++) {
        seen[w] = atomic_load_explicit(&set->way[w].hash, memory_order_acquire);
        if (seen[w] == hash && note_use(&set->way[w], hash, word))
            return;
    }
    for (unsigned w = 0; w < SB_PREFIX_WAYS; w++) {
        if (seen[w] == hash)
            find_place(board, &set->way[w], word, &place);
    }
    if (place.holder != NULL && place.age == UINT32_MAX) {
        put_holder(&place, hash, word);
        return;
    }
    /* Equal ages: not always the same one goes. */
    for (unsigned i = 0; i < SB_PREFIX_WAYS; i++) {
        unsigned w = (unsigned)(hash + i) % SB_PREFIX_WAYS;
        uint32_t age;

        if (seen[w] == hash || entry_busy(seen[w], HOLDER_STAMP(word)))
            continue;
        age = entry_age(board, &set->way[w], seen[w], HOLDER_STAMP(word));
        if (victim == NO_WAY || age > victim_age) {
            victim = w;
            victim_age = age;
        }
    }
    if (victim != NO_WAY && (place.holder == NULL || victim_age > place.age))
        take_entry(&set->way[victim], seen[victim], hash, word);
    else if (place.holder != NULL)
        put_holder(&place, hash, word);
}

/* Is the caller's knowledge of this node of any use? */
static bool node_current(const struct scoreboard *board, unsigned node, uint32_t generation)
{
    const struct sb_hot *hot = segment_hot(board, node);

    return board->writable && hot != NULL && segment_generation(hot) == generation;
}

void prefix_note(struct scoreboard *board, unsigned node, uint32_t generation,
                 const uint64_t *hashes, uint32_t n, uint64_t now_mono_us)
{
    uint32_t word = stamp_of(now_mono_us) << 18 | make_who(node, generation);

    if (!node_current(board, node, generation))
        return;
    for (uint32_t k = 0; k < n && k < FETCH_AHEAD; k++)
        fetch(set_of(board, hashes[k]));
    for (uint32_t k = 0; k < n; k++) {
        if (n - k > FETCH_AHEAD)
            fetch(set_of(board, hashes[k + FETCH_AHEAD]));
        note_window(board, hashes[k], word);
    }
}

/* ---- reading ---- */

/* Credits the nodes of one window.  False: no node has it. */
static bool match_window(const struct scoreboard *board, uint64_t hash, uint32_t windows,
                         uint32_t *matched)
{
    uint64_t wanted = usable(hash);
    const struct sb_prefix_set *set =
        segment_prefix_set(board, scale(wanted, board->geometry.n_prefix_sets));
    bool any = false;

    for (unsigned w = 0; w < SB_PREFIX_WAYS; w++) {
        const struct sb_prefix_entry *entry = &set->way[w];
        uint32_t holder[SB_PREFIX_HOLDERS];

        if (atomic_load_explicit(&entry->hash, memory_order_acquire) != wanted)
            continue;
        for (unsigned i = 0; i < SB_PREFIX_HOLDERS; i++)
            holder[i] = atomic_load_explicit(&entry->holder[i], memory_order_acquire);
        if (atomic_load_explicit(&entry->hash, memory_order_relaxed) != wanted)
            continue; /* it changed hands under us */
        for (unsigned i = 0; i < SB_PREFIX_HOLDERS; i++) {
            if (holder[i] == 0 || !holder_live(board, holder[i]))
                continue;
            matched[HOLDER_NODE(holder[i])] = windows;
            any = true;
        }
    }
    return any;
}

uint32_t prefix_match(const struct scoreboard *board, const uint64_t *hashes, uint32_t n,
                      uint32_t *matched)
{
    uint32_t most = 0;

    memset(matched, 0, board->geometry.n_nodes * sizeof(*matched));
    for (uint32_t k = 0; k < n && k < FETCH_AHEAD; k++)
        fetch(set_of(board, hashes[k]));
    for (uint32_t k = 0; k < n && k - most < PREFIX_GAP; k++) {
        if (n - k > FETCH_AHEAD)
            fetch(set_of(board, hashes[k + FETCH_AHEAD]));
        if (match_window(board, hashes[k], k + 1, matched))
            most = k + 1;
    }
    return most;
}

/* ---- sessions ---- */

static struct sb_session_set *session_set_of(const struct scoreboard *board, uint64_t hash)
{
    return segment_session_set(board, scale(hash, board->geometry.n_session_sets));
}

void prefix_session_set(struct scoreboard *board, uint64_t session_hash, unsigned node,
                        uint32_t generation, uint64_t now_mono_us)
{
    uint32_t holder = stamp_of(now_mono_us) << 18 | make_who(node, generation);
    uint64_t word = session_hash << 32 | holder;
    struct sb_session_set *set;
    uint64_t victim_seen = 0;
    uint32_t victim_age = 0;
    unsigned victim = SB_SESSION_WAYS;

    if (!node_current(board, node, generation))
        return;
    set = session_set_of(board, session_hash);
    for (unsigned w = 0; w < SB_SESSION_WAYS; w++) {
        uint64_t seen = atomic_load_explicit(&set->word[w], memory_order_relaxed);
        uint32_t age = UINT32_MAX;

        if (seen == word)
            return;
        if (seen != 0 && seen >> 32 == word >> 32) {
            victim = w;
            victim_seen = seen;
            break;
        }
        if (holder_live(board, (uint32_t)seen))
            age = age_of(HOLDER_STAMP((uint32_t)seen), HOLDER_STAMP(holder));
        if (victim == SB_SESSION_WAYS || age > victim_age) {
            victim = w;
            victim_seen = seen;
            victim_age = age;
        }
    }
    (void)atomic_compare_exchange_strong_explicit(&set->word[victim], &victim_seen, word,
                                                  memory_order_relaxed, memory_order_relaxed);
}

int prefix_session_get(const struct scoreboard *board, uint64_t session_hash)
{
    const struct sb_session_set *set = session_set_of(board, session_hash);

    for (unsigned w = 0; w < SB_SESSION_WAYS; w++) {
        uint64_t word = atomic_load_explicit(&set->word[w], memory_order_relaxed);

        if (word >> 32 == (session_hash & UINT32_MAX) && holder_live(board, (uint32_t)word))
            return (int)HOLDER_NODE((uint32_t)word);
    }
    return -1;
}

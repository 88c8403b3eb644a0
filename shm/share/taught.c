/*
 * taught.c - what the refusals of the last minutes taught about nodes.
 *
 * A lesson is two words: the value, and the key crossed with the value.  Two workers that write
 * the same place at once may leave the value of one beside the key of the other; the crossing
 * gives a key then of no lesson, so a reader finds one lesson, the other or none.
 */
#include "shm/share/taught.h"

#include "base/clock.h"
#include "base/hash.h"
#include "shm/segment.h"

static_assert(TAUGHT_PER_NODE == SB_TAUGHT_PER_NODE, "new layout version");

/* A value: when it ends, in seconds (they wrap after a century), and the figure. */
#define END_S(value)  ((uint32_t)((value) >> 32))
#define FIGURE(value) ((uint32_t)(value))

static uint64_t key_of(uint32_t generation, const struct lesson *lesson)
{
    uint64_t key = hash_spread(lesson->model_hash ^
                               hash_spread((uint64_t)generation << 32 |
                                           (uint64_t)lesson->ability << 16 | lesson->detail));

    return key == 0 ? 1 : key;
}

static struct sb_taught *taught_for(const struct scoreboard *board, unsigned node,
                                    uint32_t generation)
{
    const struct sb_hot *hot = segment_hot(board, node);

    if (hot == NULL || segment_generation(hot) != generation)
        return NULL;
    return segment_taught(board, node);
}

static uint64_t value_at(const struct sb_taught *row, unsigned i)
{
    return atomic_load_explicit(&row->lesson[i].value, memory_order_relaxed);
}

static bool is_about(const struct sb_taught *row, unsigned i, uint64_t key)
{
    uint64_t value = value_at(row, i);

    return value != 0 &&
           (atomic_load_explicit(&row->lesson[i].crossed, memory_order_relaxed) ^ value) == key;
}

/* That of the same subject, or else the one that ends first; a free one ended long ago. */
static unsigned place_for(const struct sb_taught *row, uint64_t key)
{
    unsigned first = 0;

    for (unsigned i = 0; i < TAUGHT_PER_NODE; i++) {
        if (is_about(row, i, key))
            return i;
        if (END_S(value_at(row, i)) < END_S(value_at(row, first)))
            first = i;
    }
    return first;
}

/* Each new figure makes every worker renew its tables, and those of one engine differ a little
 * from refusal to refusal: one that is hardly larger is no news.  A smaller one always is, or
 * requests between the two would be refused again and again; it is so ever more rarely.  A
 * message that is larger than one which was refused teaches nothing. */
static uint32_t settle_figure(const struct lesson *lesson, uint32_t known, uint32_t figure)
{
    if (figure <= known)
        return figure;
    if (lesson->ability == ABILITY_MESSAGE_BYTES)
        return known;
    return figure - known <= known / TAUGHT_FIGURE_PART ? known : figure;
}

void taught_note(struct scoreboard *board, unsigned node, uint32_t generation,
                 const struct lesson *lesson, uint32_t figure, uint64_t now_mono_us)
{
    struct sb_taught *row = board->writable ? taught_for(board, node, generation) : NULL;
    uint64_t key = key_of(generation, lesson), value;
    uint32_t now_s = (uint32_t)(now_mono_us / US_PER_S);
    bool valid, news;
    unsigned at;

    if (row == NULL || figure == 0)
        return;
    at = place_for(row, key);
    valid = is_about(row, at, key) && END_S(value_at(row, at)) > now_s;
    if (valid)
        figure = settle_figure(lesson, FIGURE(value_at(row, at)), figure);
    news = !valid || FIGURE(value_at(row, at)) != figure;
    value = (uint64_t)(now_s + TAUGHT_US / US_PER_S) << 32 | figure;
    atomic_store_explicit(&row->lesson[at].value, value, memory_order_relaxed);
    atomic_store_explicit(&row->lesson[at].crossed, key ^ value, memory_order_relaxed);
    if (news)
        atomic_fetch_add_explicit(&segment_taught_head(board)->epoch, 1, memory_order_release);
}

uint32_t taught_find(const struct scoreboard *board, unsigned node, uint32_t generation,
                     const struct lesson *lesson, uint64_t now_mono_us, uint64_t *until_mono_us)
{
    const struct sb_taught *row = taught_for(board, node, generation);
    uint64_t key = key_of(generation, lesson);

    for (unsigned i = 0; row != NULL && i < TAUGHT_PER_NODE; i++) {
        uint64_t value = value_at(row, i);
        uint64_t end_mono_us = (uint64_t)END_S(value) * US_PER_S;

        if (!is_about(row, i, key) || end_mono_us <= now_mono_us)
            continue;
        if (end_mono_us < *until_mono_us)
            *until_mono_us = end_mono_us;
        return FIGURE(value);
    }
    return 0;
}

bool taught_forget(struct scoreboard *board, unsigned node, uint32_t generation,
                   const struct lesson *lesson)
{
    struct sb_taught *row = board->writable ? taught_for(board, node, generation) : NULL;
    uint64_t key = key_of(generation, lesson);
    bool forgotten = false;

    for (unsigned i = 0; row != NULL && i < TAUGHT_PER_NODE; i++) {
        if (!is_about(row, i, key))
            continue;
        atomic_store_explicit(&row->lesson[i].value, 0, memory_order_relaxed);
        atomic_fetch_add_explicit(&segment_taught_head(board)->epoch, 1, memory_order_release);
        forgotten = true;
    }
    return forgotten;
}

bool taught_any(const struct scoreboard *board, unsigned node, uint32_t generation,
                uint64_t now_mono_us)
{
    const struct sb_taught *row = taught_for(board, node, generation);

    for (unsigned i = 0; row != NULL && i < TAUGHT_PER_NODE; i++) {
        if ((uint64_t)END_S(value_at(row, i)) * US_PER_S > now_mono_us)
            return true;
    }
    return false;
}

uint64_t taught_epoch(const struct scoreboard *board)
{
    return atomic_load_explicit(&segment_taught_head(board)->epoch, memory_order_acquire);
}

void taught_zero(struct scoreboard *board, unsigned node)
{
    struct sb_taught *row = board->writable ? segment_taught(board, node) : NULL;

    if (row == NULL)
        return;
    for (unsigned i = 0; i < TAUGHT_PER_NODE; i++)
        atomic_store_explicit(&row->lesson[i].value, 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&segment_taught_head(board)->epoch, 1, memory_order_release);
}

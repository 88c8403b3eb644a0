/* test_prefix.c - which nodes have seen which prompts, and what is forgotten first. */
#include "shm/share/prefix.h"

#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "board.h"
#include "shm/facts/nodes.h"
#include "shm/segment.h"

#define SECOND US_PER_S

static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static struct scoreboard *board_with_nodes(struct temporary *t, uint32_t nodes,
                                           uint32_t prefix_entries)
{
    struct scoreboard *board = board_make_prefix(t, nodes, 2, 1, prefix_entries);

    for (uint32_t i = 0; i < nodes; i++)
        cr_assert_eq(nodes_claim(board, 1), (int)i);
    return board;
}

/* How many windows of one hash a node has: 0 or 1. */
static uint32_t has(const struct scoreboard *board, unsigned node, uint64_t hash)
{
    uint32_t matched[SB_MAX_NODES];

    (void)prefix_match(board, &hash, 1, matched);
    return matched[node];
}

Test(prefix, each_node_is_credited_with_the_longest_part_it_has_seen)
{
    uint64_t a[6], b[6], c[1];
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 4, 0);
    uint32_t matched[4];
    uint64_t seed = 1;

    /* Two prompts with their first three windows in common. */
    for (unsigned k = 0; k < 6; k++) {
        a[k] = next_random(&seed);
        b[k] = k < 3 ? a[k] : next_random(&seed);
    }
    c[0] = next_random(&seed);
    prefix_note(board, 0, 1, a, 6, 10 * SECOND);
    prefix_note(board, 1, 1, b, 5, 10 * SECOND);
    prefix_note(board, 2, 1, a, 2, 10 * SECOND);

    cr_assert_eq(prefix_match(board, a, 6, matched), 6);
    cr_assert_eq(matched[0], 6);
    cr_assert_eq(matched[1], 3);
    cr_assert_eq(matched[2], 2);
    cr_assert_eq(matched[3], 0);
    cr_assert_eq(prefix_match(board, b, 6, matched), 5);
    cr_assert_eq(matched[0], 3);
    cr_assert_eq(matched[1], 5);
    cr_assert_eq(matched[2], 2);
    cr_assert_eq(prefix_match(board, a, 1, matched), 1);
    cr_assert_eq(matched[2], 1);
    cr_assert_eq(prefix_match(board, c, 1, matched), 0);
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(matched[i], 0, "what is left of the last search is gone");
    cr_assert_eq(prefix_match(board, NULL, 0, matched), 0);
    board_drop(&t, board);
}

Test(prefix, a_node_that_came_back_is_not_credited_with_what_it_had_before)
{
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 1, 0);
    const uint64_t hash = UINT64_C(0x123456789abcdef0), session = UINT64_C(0xfeed00000001);

    prefix_note(board, 0, 1, &hash, 1, SECOND);
    prefix_session_set(board, session, 0, 1, SECOND);
    cr_assert_eq(has(board, 0, hash), 1);
    cr_assert_eq(prefix_session_get(board, session), 0);
    nodes_set_state(board, 0, NODE_GONE, NODE_REASON_LEAVING, 2);
    cr_assert_eq(nodes_claim(board, 3), 0);
    cr_assert_eq(has(board, 0, hash), 0);
    cr_assert_eq(prefix_session_get(board, session), -1);
    prefix_note(board, 0, 1, &hash, 1, SECOND); /* a late request of the old node */
    prefix_session_set(board, session, 0, 1, SECOND);
    cr_assert_eq(has(board, 0, hash), 0);
    cr_assert_eq(prefix_session_get(board, session), -1);
    prefix_note(board, 0, 2, &hash, 1, SECOND);
    cr_assert_eq(has(board, 0, hash), 1);
    board_drop(&t, board);
}

Test(prefix, forgotten_windows_in_the_middle_hide_the_rest_only_from_three_in_a_row)
{
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 1, 0);
    uint64_t hash[10], seed = 2;
    uint32_t matched[1];

    for (unsigned k = 0; k < 10; k++)
        hash[k] = next_random(&seed);
    prefix_note(board, 0, 1, hash, 2, SECOND);
    prefix_note(board, 0, 1, hash + 4, 1, SECOND);
    cr_assert_eq(prefix_match(board, hash, 10, matched), 5, "2 and 3 are missing");
    prefix_note(board, 0, 1, hash + 8, 1, SECOND);
    cr_assert_eq(prefix_match(board, hash, 10, matched), 5, "5, 6 and 7 are missing");
    cr_assert_eq(matched[0], 5);
    cr_assert_eq(prefix_match(board, hash + 2, 8, matched), 3, "so may the first ones be");
    board_drop(&t, board);
}

Test(prefix, hashes_with_special_values_are_hashes_like_any_other)
{
    static const uint64_t hash[] = {0, 1, 5, 0xffff, UINT64_MAX};
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 1, 0);
    uint32_t matched[1];

    cr_assert_eq(prefix_match(board, hash, 5, matched), 0);
    prefix_note(board, 0, 1, hash, 5, SECOND);
    for (unsigned k = 0; k < 5; k++)
        cr_assert_eq(has(board, 0, hash[k]), 1, "%u", k);
    board_drop(&t, board);
}

Test(prefix, the_window_that_was_used_least_recently_goes_first)
{
    static const uint64_t hash[] = {0xa0000, 0xb0000, 0xc0000, 0xd0000, 0xe0000};
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 1, 4); /* one set of four */

    cr_assert_eq(board->geometry.n_prefix_sets, 1);
    for (unsigned k = 0; k < 4; k++)
        prefix_note(board, 0, 1, &hash[k], 1, (10 + k) * SECOND);
    prefix_note(board, 0, 1, &hash[0], 1, 14 * SECOND);
    prefix_note(board, 0, 1, &hash[4], 1, 15 * SECOND);
    cr_assert_eq(has(board, 0, hash[0]), 1, "used again");
    cr_assert_eq(has(board, 0, hash[1]), 0, "the oldest");
    cr_assert_eq(has(board, 0, hash[2]), 1);
    cr_assert_eq(has(board, 0, hash[3]), 1);
    cr_assert_eq(has(board, 0, hash[4]), 1);
    board_drop(&t, board);
}

Test(prefix, age_is_right_across_the_wrap_of_the_stamps_and_a_clock_a_little_behind)
{
    static const uint64_t hash[] = {0xa0000, 0xb0000, 0xc0000, 0xd0000, 0xe0000};
    static const uint64_t at_s[] = {16382, 16383, 16381, 16384}; /* the wrap is at 16383 s */
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 1, 4);

    for (unsigned k = 0; k < 4; k++)
        prefix_note(board, 0, 1, &hash[k], 1, at_s[k] * SECOND);
    /* hash[3] is a second in this one's future */
    prefix_note(board, 0, 1, &hash[4], 1, 16383 * SECOND);
    cr_assert_eq(has(board, 0, hash[2]), 0, "of 16381 s");
    for (unsigned k = 0; k < 5; k++)
        cr_assert(k == 2 || has(board, 0, hash[k]) == 1, "%u", k);
    board_drop(&t, board);
}

Test(prefix, entries_of_nodes_that_left_go_before_all_others)
{
    static const uint64_t hash[] = {0xa0000, 0xb0000, 0xc0000, 0xd0000, 0xe0000};
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 2, 4);

    for (unsigned k = 0; k < 4; k++)
        prefix_note(board, k == 3 ? 1 : 0, 1, &hash[k], 1, (10 + k) * SECOND);
    nodes_set_state(board, 1, NODE_GONE, NODE_REASON_LEAVING, 2);
    cr_assert_eq(nodes_claim(board, 3), 1);
    prefix_note(board, 0, 1, &hash[4], 1, 20 * SECOND);
    for (unsigned k = 0; k < 5; k++)
        cr_assert_eq(has(board, 0, hash[k]), k != 3, "%u", k);
    board_drop(&t, board);
}

Test(prefix, a_common_window_is_remembered_for_twenty_four_nodes)
{
    const uint64_t common = 0xa0000, other = 0xb0000;
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 26, 4);
    uint32_t matched[26], sum = 0;

    for (unsigned i = 0; i < 24; i++)
        prefix_note(board, i, 1, &common, 1, (100 + i) * SECOND);
    (void)prefix_match(board, &common, 1, matched);
    for (unsigned i = 0; i < 24; i++)
        cr_assert_eq(matched[i], 1, "node %u", i);
    /* Full: the next one takes the place of the oldest. */
    prefix_note(board, 24, 1, &common, 1, 130 * SECOND);
    (void)prefix_match(board, &common, 1, matched);
    cr_assert_eq(matched[0], 0);
    for (unsigned i = 1; i < 25; i++)
        cr_assert_eq(matched[i], 1, "node %u", i);
    /* Another window takes the entry that was used least recently: at most six nodes' worth. */
    prefix_note(board, 25, 1, &other, 1, 131 * SECOND);
    cr_assert_eq(has(board, 25, other), 1);
    (void)prefix_match(board, &common, 1, matched);
    for (unsigned i = 0; i < 26; i++)
        sum += matched[i];
    cr_assert_eq(sum, 18);
    cr_assert_eq(matched[24], 1, "the newest stays");
    board_drop(&t, board);
}

Test(prefix, an_entry_that_a_dead_worker_was_filling_is_used_again_after_a_while)
{
    static const uint64_t hash[] = {0xa0000, 0xb0000, 0xc0000, 0xd0000, 0xe0000};
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 1, 4);
    struct sb_prefix_set *set = segment_prefix_set(board, 0);

    for (unsigned k = 0; k < 4; k++)
        prefix_note(board, 0, 1, &hash[k], 1, 10 * SECOND);
    for (unsigned w = 0; w < 4; w++)
        set->way[w].hash = 1 + (1 + 20); /* busy since second 20 */
    prefix_note(board, 0, 1, &hash[4], 1, 21 * SECOND);
    cr_assert_eq(has(board, 0, hash[4]), 0, "somebody may still be at it");
    for (unsigned w = 0; w < 4; w++)
        cr_assert_eq(set->way[w].hash, 22);
    prefix_note(board, 0, 1, &hash[4], 1, 23 * SECOND);
    cr_assert_eq(has(board, 0, hash[4]), 1);
    board_drop(&t, board);
}

Test(prefix, a_use_within_the_same_second_writes_nothing)
{
    const uint64_t hash = 0xa0000;
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 2, 4);
    struct sb_prefix_set before, after;

    prefix_note(board, 0, 1, &hash, 1, 10 * SECOND);
    memcpy(&before, segment_prefix_set(board, 0), sizeof(before));
    prefix_note(board, 0, 1, &hash, 1, 10 * SECOND + 999999);
    memcpy(&after, segment_prefix_set(board, 0), sizeof(after));
    cr_assert_eq(memcmp(&before, &after, sizeof(after)), 0);
    prefix_note(board, 0, 1, &hash, 1, 11 * SECOND);
    memcpy(&after, segment_prefix_set(board, 0), sizeof(after));
    cr_assert_neq(memcmp(&before, &after, sizeof(after)), 0);
    board_drop(&t, board);
}

Test(prefix, with_room_enough_nothing_is_lost_and_nothing_invented)
{
    enum { NODES = 16, CHAINS = 200, WINDOWS = 12 };
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, NODES, 0);
    static uint64_t hash[CHAINS][WINDOWS];
    static uint32_t want[CHAINS][NODES];
    uint32_t matched[NODES];
    uint64_t seed = 77;

    for (unsigned c = 0; c < CHAINS; c++)
        for (unsigned k = 0; k < WINDOWS; k++)
            hash[c][k] = next_random(&seed);
    for (unsigned i = 0; i < 1500; i++) {
        unsigned c = (unsigned)(next_random(&seed) % CHAINS);
        unsigned node = (unsigned)(next_random(&seed) % NODES);
        uint32_t n = 1 + (uint32_t)(next_random(&seed) % WINDOWS);

        prefix_note(board, node, 1, hash[c], n, (1 + i / 10) * SECOND);
        if (n > want[c][node])
            want[c][node] = n;
    }
    for (unsigned c = 0; c < CHAINS; c++) {
        (void)prefix_match(board, hash[c], WINDOWS, matched);
        cr_assert_eq(memcmp(matched, want[c], sizeof(matched)), 0, "chain %u", c);
    }
    board_drop(&t, board);
}

Test(prefix, sessions_are_remembered_moved_and_forgotten_oldest_first)
{
    struct temporary t;
    struct scoreboard *board = board_with_nodes(&t, 3, 8); /* one set of eight sessions */

    cr_assert_eq(board->geometry.n_session_sets, 1);
    cr_assert_eq(prefix_session_get(board, 7), -1);
    for (uint64_t s = 1; s <= 8; s++)
        prefix_session_set(board, s, (unsigned)(s % 3), 1, (10 + s) * SECOND);
    for (uint64_t s = 1; s <= 8; s++)
        cr_assert_eq(prefix_session_get(board, s), (int)(s % 3));
    prefix_session_set(board, 1, 2, 1, 30 * SECOND); /* moves, and is fresh now */
    prefix_session_set(board, 9, 0, 1, 31 * SECOND);
    cr_assert_eq(prefix_session_get(board, 1), 2);
    cr_assert_eq(prefix_session_get(board, 9), 0);
    cr_assert_eq(prefix_session_get(board, 2), -1, "the oldest");
    cr_assert_eq(prefix_session_get(board, 3), 0);
    board_drop(&t, board);
}

/* ---- many writers, some of which die ---- */

enum { STORM_NODES = 8, STORM_HASHES = 256 };

/* Hash h belongs to node h % 8 and is never noted for another. */
static uint64_t storm_hash(unsigned h)
{
    uint64_t seed = h;

    return next_random(&seed);
}

static void storm(struct scoreboard *board, _Atomic uint64_t *steps, uint64_t seed)
{
    for (;;) {
        unsigned h = (unsigned)(next_random(&seed) % STORM_HASHES);
        uint64_t hash = storm_hash(h), now_s = 10 + *steps / 256;

        prefix_note(board, h % STORM_NODES, 1, &hash, 1, now_s * SECOND);
        (*steps)++;
    }
}

Test(prefix, writers_killed_in_the_middle_leave_an_index_that_works, .timeout = 60)
{
    struct temporary t;
    struct scoreboard *board =
        board_with_nodes(&t, STORM_NODES, 128); /* half of what is noted */
    _Atomic uint64_t *steps =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint32_t matched[STORM_NODES], found = 0, wrong = 0;
    uint64_t seed = 3, last_s;
    pid_t pid[3];

    cr_assert_neq(steps, MAP_FAILED);
    for (int i = 0; i < 60; i++) {
        pid_t *one = &pid[i % 3];

        if (i >= 3) {
            uint64_t goal = *steps + 1 + next_random(&seed) % 5000;

            while (*steps < goal)
                (void)sched_yield();
            cr_assert_eq(kill(*one, SIGKILL), 0);
            cr_assert_eq(waitpid(*one, NULL, 0), *one);
        }
        *one = fork();
        cr_assert_neq(*one, -1);
        if (*one == 0) {
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            storm(board, steps, next_random(&seed));
        }
        (void)next_random(&seed);
    }
    for (unsigned i = 0; i < 3; i++) {
        cr_assert_eq(kill(pid[i], SIGKILL), 0);
        cr_assert_eq(waitpid(pid[i], NULL, 0), pid[i]);
    }
    last_s = 10 + *steps / 256;
    for (unsigned h = 0; h < STORM_HASHES; h++) {
        uint64_t hash = storm_hash(h);

        (void)prefix_match(board, &hash, 1, matched);
        found += matched[h % STORM_NODES];
        for (unsigned i = 0; i < STORM_NODES; i++)
            wrong += i != h % STORM_NODES && matched[i] != 0;
    }
    cr_assert_geq(found, 64, "of 128 places %u hold something", found);
    cr_assert_leq(wrong, 3, "only a race of a few instructions may credit the wrong node");
    /* No place is lost for good: in quiet, everything that fits is remembered. */
    for (unsigned h = 1000; h < 1128; h++) {
        uint64_t hash = storm_hash(h);

        prefix_note(board, 0, 1, &hash, 1, (last_s + h) * SECOND);
        cr_assert_eq(has(board, 0, hash), 1);
    }
    (void)munmap(steps, 4096);
    board_drop(&t, board);
}

/* test_poison.c - requests under which engines died: shared, bounded, and forgotten in time. */
#include "shm/share/poison.h"

#include <string.h>

#include "base/clock.h"
#include "board.h"

#define NOW (UINT64_C(100) * US_PER_S)

static struct poison_request of(uint64_t model, int operation, const char *body)
{
    return (struct poison_request){
        .model_hash = model, .operation = operation, .body = body, .n = strlen(body)};
}

static void make_poison(struct scoreboard *board, const struct poison_request *request,
                        uint64_t now)
{
    (void)!poison_note_death(board, request, 0, false, now - POISON_APART_US);
    (void)!poison_note_death(board, request, 0, true, now);
}

Test(poison, the_same_request_is_known_to_all_and_no_other_is)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 2, 1), *reader;
    struct poison_request bad = of(7, 1, "{\"prompt\":\"bad\"}");
    struct poison_request other[] = {of(8, 1, "{\"prompt\":\"bad\"}"),
                                     of(7, 2, "{\"prompt\":\"bad\"}"),
                                     of(7, 1, "{\"prompt\":\"bad\"} "), of(7, 1, "")};

    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_expect(!poison_is(reader, &bad, NOW), "none was noted");
    make_poison(board, &bad, NOW);
    cr_expect(poison_is(reader, &bad, NOW + POISON_US - 1));
    for (size_t i = 0; i < sizeof(other) / sizeof(other[0]); i++)
        cr_expect(!poison_is(reader, &other[i], NOW), "%zu", i);
    cr_expect(!poison_is(reader, &bad, NOW + POISON_US + 1), "it is forgotten");
    make_poison(reader, &other[0], NOW);
    cr_expect(!poison_is(board, &other[0], NOW), "a reader writes nothing");
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(poison, of_too_many_the_oldest_go)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    char body[16];

    for (unsigned i = 0; i <= POISON_ENTRIES; i++) {
        (void)snprintf(body, sizeof(body), "%u", i);
        struct poison_request one = of(7, 1, body);

        make_poison(board, &one, NOW + i);
    }
    for (unsigned i = 0; i <= POISON_ENTRIES; i++) {
        (void)snprintf(body, sizeof(body), "%u", i);
        struct poison_request one = of(7, 1, body);

        cr_expect_eq(poison_is(board, &one, NOW + POISON_ENTRIES), i != 0, "%u", i);
    }
    board_drop(&t, board);
}

Test(poison, a_huge_body_counts_with_its_length_its_beginning_and_its_end)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    size_t n = (size_t)3 * 1024 * 1024;
    char *body = malloc(n);
    struct poison_request huge = {.model_hash = 7, .body = body, .n = n};

    cr_assert_not_null(body);
    memset(body, 'a', n);
    make_poison(board, &huge, NOW);
    cr_expect(poison_is(board, &huge, NOW));
    body[n - 1] = 'b';
    cr_expect(!poison_is(board, &huge, NOW));
    body[n - 1] = 'a';
    body[0] = 'b';
    cr_expect(!poison_is(board, &huge, NOW));
    body[0] = 'a';
    huge.n--;
    cr_expect(!poison_is(board, &huge, NOW));
    free(body);
    board_drop(&t, board);
}

Test(poison, one_death_is_none_and_two_within_a_minute_are)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct poison_request bad = of(7, 1, "bad"), slow = of(7, 1, "slow");

    cr_expect(!poison_note_death(board, &bad, 0, false, NOW));
    cr_expect(!poison_is(board, &bad, NOW));
    cr_expect(!poison_note_death(board, &bad, 0, false, NOW + POISON_APART_US - 2),
              "the same engine's, under another request of the same bytes");
    cr_expect(!poison_is(board, &bad, NOW + POISON_APART_US));
    cr_expect(poison_note_death(board, &bad, 0, false, NOW + 2 * POISON_APART_US),
              "its client sent it again to the same engine");
    cr_expect(poison_is(board, &bad, NOW + 2 * POISON_APART_US + POISON_US - 1));
    cr_expect(poison_note_death(board, &bad, 0, false, NOW + 3 * POISON_APART_US));
    cr_expect(!poison_note_death(board, &slow, 0, false, NOW));
    cr_expect(!poison_note_death(board, &slow, 0, true, NOW + POISON_US + 1),
              "engines that end minutes apart do not die of it");
    cr_expect(!poison_is(board, &slow, NOW + POISON_US + 1));
    cr_expect(poison_note_death(board, &slow, 0, true, NOW + POISON_US + 2),
              "these two do, perhaps");
    board_drop(&t, board);
}

/* Equal requests come at once, each to a node of its own. */
Test(poison, engines_that_die_at_once_are_several)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct poison_request bad = of(7, 1, "bad");

    cr_expect(!poison_note_death(board, &bad, 1023, false, NOW));
    cr_expect(!poison_note_death(board, &bad, 1023, false, NOW + 1));
    cr_expect(poison_note_death(board, &bad, 2, false, NOW + 2));
    poison_forget(board, &bad, NOW + 3);
    cr_expect(poison_is(board, &bad, NOW + 3), "a copy that is answered does not end it");
    cr_expect(!poison_is(board, &bad, NOW + POISON_US + 5 * US_PER_MS));
    board_drop(&t, board);
}

Test(poison, an_answer_takes_the_suspicion_away)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct poison_request one = of(7, 1, "one"), other = of(7, 1, "other");

    cr_expect(!poison_note_death(board, &one, 0, false, NOW));
    cr_expect(!poison_note_death(board, &other, 0, false, NOW));
    poison_forget(board, &one, NOW);
    cr_expect(!poison_note_death(board, &one, 0, false, NOW + 2 * POISON_APART_US));
    cr_expect(poison_note_death(board, &other, 0, false, NOW + 2 * POISON_APART_US));
    board_drop(&t, board);
}

Test(poison, suspicions_do_not_push_out_what_is_known)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct poison_request bad = of(7, 1, "bad");
    char body[16];

    make_poison(board, &bad, NOW);
    for (unsigned i = 0; i < 2 * POISON_ENTRIES; i++) {
        (void)snprintf(body, sizeof(body), "%u", i);
        struct poison_request one = of(7, 1, body);

        cr_expect(!poison_note_death(board, &one, 0, false, NOW + i));
    }
    cr_expect(poison_is(board, &bad, NOW + US_PER_S));
    board_drop(&t, board);
}

/* test_resolve.c - an address comes from the loop, once, whether it is numeric or a name. */
#include "base/io/resolve.h"

#include <criterion/criterion.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"

struct answer {
    unsigned count; /* of callbacks */
    int rc;
    size_t n;
    uint16_t port;
    char why[128];
};

static void on_resolved(int rc, const struct net_addr *list, size_t n, const char *why,
                        void *data)
{
    struct answer *answer = data;

    answer->count++;
    answer->rc = rc;
    answer->n = n;
    answer->port = n == 0 ? 0 : net_port(&list[0]);
    (void)strlcpy(answer->why, why, sizeof(answer->why));
}

static void ask(struct loop *loop, struct answer *answer, const char *text)
{
    uint64_t give_up = clock_mono_us() + 60 * US_PER_S;
    struct resolve *resolve;
    struct error err = {0};

    cr_assert_eq(resolve_start(&resolve, loop, text, on_resolved, answer, &err), 0, "%s",
                 err.text);
    cr_assert_eq(answer->count, 0, "%s: from inside resolve_start()", text);
    while (answer->count == 0 && clock_mono_us() < give_up)
        loop_turn(loop, 10000);
    loop_turn(loop, 0);
    cr_assert_eq(answer->count, 1, "%s", text);
}

Test(resolve, numbers_and_names_become_addresses)
{
    static const char *const texts[] = {"127.0.0.1:80", "[::1]:80", "localhost:80"};
    struct loop loop;

    cr_assert_eq(loop_init(&loop, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct answer answer = {0};

        ask(&loop, &answer, texts[i]);
        cr_assert_eq(answer.rc, 0, "%s: %s", texts[i], answer.why);
        cr_assert_geq(answer.n, 1);
        cr_assert_eq(answer.port, 80);
    }
    loop_finish(&loop);
}

Test(resolve, a_name_that_does_not_exist_gives_a_reason)
{
    struct answer answer = {0};
    struct loop loop;

    cr_assert_eq(loop_init(&loop, NULL), 0);
    ask(&loop, &answer, "nowhere.invalid:80");
    cr_assert_lt(answer.rc, 0);
    cr_assert_eq(answer.n, 0);
    cr_assert_neq(answer.why[0], '\0');
    loop_finish(&loop);
}

Test(resolve, a_cancelled_question_is_not_answered)
{
    static const char *const texts[] = {"127.0.0.1:80", "localhost:80"};
    struct answer answer = {0}, later = {0};
    struct resolve *resolve;
    struct loop loop;

    cr_assert_eq(loop_init(&loop, NULL), 0);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        cr_assert_eq(resolve_start(&resolve, &loop, texts[i], on_resolved, &answer, NULL), 0);
        resolve_cancel(resolve);
    }
    ask(&loop, &later, "localhost:80"); /* the thread of the first has answered by then */
    cr_assert_eq(answer.count, 0);
    loop_finish(&loop);
}

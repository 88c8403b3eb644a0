/* test_decode_queue.c - bodies are decoded in turns, within limits. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "worker/encoding/decode_queue.h"

#define MIB ((size_t)1024 * 1024)

static struct loop loop;
static struct decode_queue queue;
static size_t held, most_held; /* 64 MiB at most */
static unsigned ended;
static enum decode_end ends[16];
static uint8_t *bodies[4];
static size_t packed_n[4];

/* `n` zeros, by gzip. */
static void pack(unsigned i, size_t n)
{
    z_stream z = {0};
    size_t cap = n / 500 + 1000;
    static uint8_t zeros[65536];

    bodies[i] = malloc(cap);
    cr_assert_eq(deflateInit2(&z, 9, Z_DEFLATED, 31, 9, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_out = bodies[i];
    z.avail_out = (uInt)cap;
    while (n > 0) {
        z.next_in = zeros;
        z.avail_in = (uInt)(n < sizeof(zeros) ? n : sizeof(zeros));
        n -= z.avail_in;
        cr_assert_eq(deflate(&z, Z_NO_FLUSH), Z_OK);
    }
    cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
    packed_n[i] = z.total_out;
    (void)deflateEnd(&z);
}

static void init(void)
{
    struct error err = {0};

    cr_assert_eq(loop_init(&loop, &err), 0, "%s", err.text);
    decode_queue_init(&queue, &loop);
}

static void fini(void)
{
    decode_queue_finish(&queue);
    loop_finish(&loop);
    for (unsigned i = 0; i < 4; i++)
        free(bodies[i]);
}

TestSuite(decode_queue, .init = init, .fini = fini, .timeout = 60);

static bool hold(struct decode_job *job, size_t n)
{
    (void)job;
    if (n > 64 * MIB - held)
        return false;
    held += n;
    return true;
}

static void release(struct decode_job *job, size_t n)
{
    (void)job;
    held -= n;
}

static void on_end(struct decode_job *job, enum decode_end end)
{
    cr_expect(job->queue == NULL, "it does not run any more");
    ends[ended++] = end;
}

static void run(unsigned until)
{
    while (ended < until) {
        loop_turn(&loop, 10 * US_PER_S);
        if (held > most_held)
            most_held = held;
    }
}

static void start_body(struct decode_job *job, unsigned i, size_t max)
{
    static const struct decode_room room = {hold, release};

    decode_start(&queue, job, ENCODING_GZIP, bodies[i], packed_n[i], max, &room, on_end, NULL);
}

Test(decode_queue, a_body_comes_out_whole_and_a_turn_does_a_part)
{
    struct decode_job job;
    unsigned turns = 0;

    pack(0, 5 * MIB);
    start_body(&job, 0, 5 * MIB);
    cr_assert_eq(ended, 0, "never from inside the call");
    for (; ended == 0; turns++)
        loop_turn(&loop, 10 * US_PER_S);
    cr_expect_geq(turns, 5, "a turn does 1 MiB at most");
    cr_assert_eq(ends[0], DECODE_DONE);
    cr_assert_eq(job.out_len, 5 * MIB);
    cr_expect(job.out[0] == 0 && job.out[5 * MIB - 1] == 0);
    cr_expect_eq(held, 0, "the owner counts it from now on");
    free(job.out);
}

Test(decode_queue, a_body_over_its_limit_is_given_up_at_the_limit)
{
    struct decode_job job;

    pack(0, 40 * MIB);
    start_body(&job, 0, 3 * MIB);
    run(1);
    cr_expect_eq(ends[0], DECODE_TOO_LARGE);
    cr_expect_lt(most_held, 3 * MIB + MIB / 4, "no more than that is ever held");
    cr_expect(job.out == NULL);
    cr_expect_eq(held, 0);
    pack(1, 3 * MIB + 1);
    start_body(&job, 1, 3 * MIB);
    run(2);
    cr_expect_eq(ends[1], DECODE_TOO_LARGE, "one byte counts");
}

Test(decode_queue, all_together_have_a_limit)
{
    struct decode_job job;

    pack(0, 40 * MIB);
    held = 40 * MIB; /* of other requests */
    start_body(&job, 0, 64 * MIB);
    run(1);
    cr_expect_eq(ends[0], DECODE_NO_ROOM);
    cr_expect_leq(most_held, 64 * MIB);
    cr_expect_eq(held, 40 * MIB);
}

Test(decode_queue, a_short_body_does_not_wait_for_a_long_one)
{
    struct decode_job jobs[2];

    pack(0, 40 * MIB);
    pack(1, 100);
    start_body(&jobs[0], 0, 64 * MIB);
    start_body(&jobs[1], 1, 64 * MIB);
    run(1);
    cr_expect(jobs[0].queue != NULL);
    cr_assert(jobs[1].queue == NULL);
    cr_expect_eq(jobs[1].out_len, 100);
    free(jobs[1].out);
    decode_cancel(&jobs[0]);
    decode_cancel(&jobs[0]);
    cr_expect_eq(held, 0);
    for (unsigned i = 0; i < 3; i++)
        loop_turn(&loop, 1000);
    cr_expect_eq(ended, 1, "a body that was taken back does not end");
}

/* Its owner was gone when it ended, and did not take it. */
Test(decode_queue, a_body_that_its_owner_did_not_take_is_freed)
{
    struct decode_job job;

    pack(0, MIB);
    start_body(&job, 0, MIB);
    run(1);
    cr_assert(job.out != NULL);
    decode_cancel(&job);
    cr_expect(job.out == NULL);
    cr_expect_eq(held, 0);
}

Test(decode_queue, a_damaged_body_says_why)
{
    struct decode_job job;

    pack(0, 100);
    bodies[0][packed_n[0] - 5] ^= 1;
    start_body(&job, 0, MIB);
    run(1);
    cr_expect_eq(ends[0], DECODE_BAD);
    cr_expect_str_eq(job.err.text, "the request body is not valid gzip: incorrect data check");
    cr_expect_eq(held, 0);
}

Test(decode_queue, an_empty_text_is_done)
{
    struct decode_job job;

    pack(0, 0);
    start_body(&job, 0, MIB);
    run(1);
    cr_expect_eq(ends[0], DECODE_DONE);
    cr_expect(job.out == NULL && job.out_len == 0);
}

/* test_frame.c - cutting a byte stream into messages. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "proto/rpc/frame.h"

/* Three messages: "abc", "", and 300 bytes of 'z'. */
static uint8_t stream[5 + 3 + 5 + 5 + 300];

static void make_stream(void)
{
    frame_prefix(stream, 3);
    memcpy(stream + 5, "abc", 3);
    frame_prefix(stream + 8, 0);
    frame_prefix(stream + 13, 300);
    memset(stream + 18, 'z', 300);
}

struct seen {
    unsigned messages;
    size_t bytes;
    bool wrong;
};

static enum frame_result feed(struct frame_reader *reader, const uint8_t *in, size_t n,
                              struct seen *seen)
{
    static const size_t sizes[] = {3, 0, 300};
    static const char first[] = {'a', 0, 'z'};
    enum frame_result result = FRAME_MORE;

    while (n != 0) {
        const uint8_t *msg = NULL;
        size_t len = 0;

        result = frame_read(reader, &in, &n, &msg, &len);
        if (result != FRAME_MESSAGE)
            return result;
        if (seen->messages >= 3 || len != sizes[seen->messages] ||
            (len != 0 && msg[0] != (uint8_t)first[seen->messages]))
            seen->wrong = true;
        seen->messages++;
        seen->bytes += len;
    }
    return result;
}

Test(frame, several_messages_in_one_piece_are_all_delivered_in_place)
{
    struct frame_reader reader;
    struct seen seen = {0};

    make_stream();
    frame_reader_init(&reader, 1000);
    (void)feed(&reader, stream, sizeof(stream), &seen);
    cr_assert_eq(seen.messages, 3);
    cr_assert_eq(seen.bytes, 303);
    cr_assert_not(seen.wrong);
    cr_assert_eq(reader.partial.cap, 0, "nothing was copied");
    cr_assert_eq(frame_reader_partial(&reader), 0);
    frame_reader_finish(&reader);
}

Test(frame, one_byte_at_a_time_gives_the_same_messages)
{
    struct frame_reader reader;
    struct seen seen = {0};
    size_t i;

    make_stream();
    frame_reader_init(&reader, 1000);
    for (i = 0; i < sizeof(stream); i++)
        (void)feed(&reader, stream + i, 1, &seen);
    cr_assert_eq(seen.messages, 3);
    cr_assert_eq(seen.bytes, 303);
    cr_assert_not(seen.wrong);
    frame_reader_finish(&reader);
}

Test(frame, a_cut_at_every_byte_loses_nothing_and_shows_the_unfinished_message)
{
    size_t cut;

    make_stream();
    for (cut = 0; cut <= sizeof(stream); cut++) {
        struct frame_reader reader;
        struct seen seen = {0};
        bool between = cut == 0 || cut == 8 || cut == 13 || cut == sizeof(stream);

        frame_reader_init(&reader, 1000);
        (void)feed(&reader, stream, cut, &seen);
        cr_assert_eq(frame_reader_partial(&reader) == 0, between, "cut at %zu", cut);
        (void)feed(&reader, stream + cut, sizeof(stream) - cut, &seen);
        cr_assert_eq(seen.messages, 3, "cut at %zu", cut);
        cr_assert_not(seen.wrong);
        frame_reader_finish(&reader);
    }
}

Test(frame, a_length_over_the_limit_is_seen_before_its_bytes)
{
    struct frame_reader reader;
    const uint8_t prefix[5] = {0, 0, 0, 3, 233}; /* 1001 */
    const uint8_t *in = prefix, *msg;
    size_t n = 5, len;

    frame_reader_init(&reader, 1000);
    cr_assert_eq(frame_read(&reader, &in, &n, &msg, &len), FRAME_TOO_BIG);
    cr_assert_eq(reader.partial.cap, 0);
    frame_reader_finish(&reader);
}

Test(frame, a_length_of_four_gigabytes_allocates_nothing)
{
    struct frame_reader reader;
    const uint8_t prefix[6] = {0, 255, 255, 255, 255, 'x'};
    const uint8_t *in = prefix, *msg;
    size_t n = 6, len;

    frame_reader_init(&reader, SIZE_MAX);
    cr_assert_eq(frame_read(&reader, &in, &n, &msg, &len), FRAME_MORE);
    cr_assert_lt(reader.partial.cap, 4096);
    frame_reader_finish(&reader);
}

Test(frame, flags_other_than_zero_are_distinguished)
{
    const uint8_t compressed[5] = {1, 0, 0, 0, 0}, bad[5] = {2, 0, 0, 0, 0};
    const uint8_t *in, *msg;
    size_t n, len;
    struct frame_reader reader;

    frame_reader_init(&reader, 10);
    in = compressed;
    n = 5;
    cr_assert_eq(frame_read(&reader, &in, &n, &msg, &len), FRAME_COMPRESSED);
    frame_reader_init(&reader, 10);
    in = bad;
    n = 5;
    cr_assert_eq(frame_read(&reader, &in, &n, &msg, &len), FRAME_BAD_FLAG);
}

Test(frame, the_buffer_of_a_split_message_is_used_again)
{
    struct frame_reader reader;
    struct seen seen = {0};
    size_t cap;

    make_stream();
    frame_reader_init(&reader, 1000);
    (void)feed(&reader, stream, 100, &seen);
    (void)feed(&reader, stream + 100, sizeof(stream) - 100, &seen);
    cap = reader.partial.cap;
    cr_assert_gt(cap, 0);
    seen.messages = 0;
    (void)feed(&reader, stream, 100, &seen);
    cr_assert_eq(reader.partial.cap, cap);
    frame_reader_finish(&reader);
}

Test(frame, the_buffer_of_a_large_message_does_not_grow_by_steps)
{
    struct frame_reader reader;
    static uint8_t piece[5 + 16 * 1024];
    const uint8_t *in = piece, *msg;
    size_t n = sizeof(piece), len, cap;
    uint8_t *data;

    frame_prefix(piece, 225 * 1024);
    frame_reader_init(&reader, SIZE_MAX);
    cr_assert_eq(frame_read(&reader, &in, &n, &msg, &len), FRAME_MORE);
    data = reader.partial.data;
    cap = reader.partial.cap;
    for (size_t left = 209 * 1024; left != 0; left -= len) {
        len = left < 16 * 1024 ? left : 16 * 1024;
        in = piece;
        n = len;
        cr_assert_eq(frame_read(&reader, &in, &n, &msg, &(size_t){0}),
                     len == left ? FRAME_MESSAGE : FRAME_MORE);
    }
    cr_assert_eq(reader.partial.data, data);
    cr_assert_eq(reader.partial.cap, cap);
    frame_reader_finish(&reader);
}

Test(frame, random_bytes_in_random_pieces_never_crash_it)
{
    unsigned round;

    srandom(1);
    for (round = 0; round < 20000; round++) {
        struct frame_reader reader;
        uint8_t bytes[64];
        size_t left = sizeof(bytes), i;

        for (i = 0; i < sizeof(bytes); i++)
            bytes[i] = (uint8_t)((random() & 3) != 0 ? 0 : random());
        frame_reader_init(&reader, 40);
        while (left != 0) {
            const uint8_t *in = bytes + sizeof(bytes) - left, *msg = NULL;
            size_t n = 1 + (size_t)random() % left, given = n, len = 0;
            enum frame_result result = frame_read(&reader, &in, &n, &msg, &len);

            cr_assert_leq(n, given);
            left -= given - n;
            if (result == FRAME_MESSAGE)
                cr_assert_leq(len, 40);
            else if (result != FRAME_MORE)
                break;
        }
        frame_reader_finish(&reader);
    }
}

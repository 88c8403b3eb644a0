/* test_grpc.c - the gRPC client against the gRPC server, over loopback, in one process. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "proto/grpc_health_v1.pb-c.h"
#include "rig.h"

static const struct call_options echo_options = {.path = "/t.T/Echo"};

Test(grpc, a_unary_call_gets_its_answer)
{
    struct rig rig;
    struct probe probe = {0};

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &echo_options, "hello", 5);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_OK);
    cr_assert_eq(probe.end, CALL_END_STATUS);
    cr_assert_eq(probe.messages, 1);
    cr_assert_eq(probe.batches, 1);
    cr_assert_eq(buf_size(&probe.last), 5);
    cr_assert_eq(memcmp(buf_head(&probe.last), "hello", 5), 0);
    cr_assert(RIG_WAIT(&rig, rig.closed == 1));
    cr_assert_gt(channel_connect_us(rig.channel), 0);
    cr_assert_eq(rig.states_count, 2);
    cr_assert_eq(rig.states[0], CHANNEL_CONNECTING);
    cr_assert_eq(rig.states[1], CHANNEL_READY);
    probe_finish(&probe);
    rig_finish(&rig);
}

Test(grpc, an_empty_message_is_a_message)
{
    struct rig rig;
    struct probe probe = {0};

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &echo_options, "", 0);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_OK);
    cr_assert_eq(probe.messages, 1);
    cr_assert_eq(probe.bytes, 0);
    probe_finish(&probe);
    rig_finish(&rig);
}

Test(grpc, messages_larger_than_every_window_arrive_in_both_directions)
{
    struct rig rig;
    struct probe probe = {0};
    size_t n = 3500000, i;
    uint8_t *bytes = malloc(n);

    for (i = 0; i < n; i++)
        bytes[i] = (uint8_t)(i * 31);
    rig_init(&rig);
    rig.channel_config.stream_window_bytes = 65535;
    rig.channel_config.connection_window_bytes = 100000;
    rig_start(&rig);
    rig_call(&rig, &probe, &echo_options, bytes, n);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_OK, "%s", probe.text);
    cr_assert_eq(buf_size(&probe.last), n);
    cr_assert_eq(memcmp(buf_head(&probe.last), bytes, n), 0);
    free(bytes);
    probe_finish(&probe);
    rig_finish(&rig);
}

Test(grpc, a_manual_window_still_passes_a_message_larger_than_itself)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Pour", .manual_window = true};

    rig_init(&rig);
    rig.channel_config.stream_window_bytes = 65535;
    rig_start(&rig);
    rig_call(&rig, &probe, &options, "3 1000000", 9);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_OK, "%s", probe.text);
    cr_assert_eq(probe.messages, 3);
    cr_assert_eq(probe.bytes, 3000000);
    cr_assert_not(probe.bad);
    probe_finish(&probe);
    rig_finish(&rig);
}

Test(grpc, a_slow_reader_stops_its_own_stream_and_no_other)
{
    struct rig rig;
    struct probe slow = {.hold = true}, fast = {0};
    const struct call_options manual = {.path = "/t.T/Pour", .manual_window = true};
    const struct call_options automatic = {.path = "/t.T/Pour"};
    size_t held;

    rig_init(&rig);
    rig.channel_config.stream_window_bytes = 65535;
    rig_start(&rig);
    rig_call(&rig, &slow, &manual, "2000 1000", 9);
    cr_assert(RIG_WAIT(&rig, slow.bytes >= 60000));
    rig_call(&rig, &fast, &automatic, "20000 1000", 10);
    cr_assert(RIG_WAIT(&rig, fast.ends == 1));
    cr_assert_eq(fast.messages, 20000);
    cr_assert_eq(fast.status, GRPC_OK);
    /* The window plus at most one message that was under way. */
    held = slow.bytes;
    cr_assert_leq(held, 65535 + 1000);
    cr_assert_eq(slow.ends, 0);
    /* Pour keeps 64 KiB queued; nothing runs ahead of that. */
    cr_assert_leq(rig.poured - 20000, 66 + 66 + 1 + 20);
    slow.hold = false;
    call_release(slow.call, held);
    cr_assert(RIG_WAIT(&rig, slow.ends == 1));
    cr_assert_eq(slow.messages, 2000);
    cr_assert_eq(slow.status, GRPC_OK);
    probe_finish(&slow);
    probe_finish(&fast);
    rig_finish(&rig);
}

static uint8_t *pattern(size_t n)
{
    uint8_t *bytes = malloc(n);

    for (size_t i = 0; i < n; i++)
        bytes[i] = (uint8_t)(i * 31 + (i >> 11));
    return bytes;
}

Test(grpc, lent_bytes_follow_in_messages_of_one_field)
{
    static const size_t sizes[] = {1, 127, 128, 200000, 262144, 262145, 3000000};
    const struct call_options options = {.path = "/t.T/Chat"};
    struct rig rig;

    rig_init(&rig);
    rig_start(&rig);
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        struct probe probe = {.keep = true};
        uint8_t *bytes = pattern(sizes[s]);
        size_t at = 0, done = 0;

        rig_call(&rig, &probe, &options, NULL, 0);
        cr_assert_eq(rig_send(probe.call, "first", 5), 0);
        call_lend(probe.call, 5, bytes, sizes[s], 262144);
        cr_assert_eq(call_lent(probe.call), sizes[s]);
        call_half_close(probe.call);
        cr_assert(RIG_WAIT(&rig, probe.ends == 1));
        cr_assert_eq(probe.status, GRPC_OK, "%s", probe.text);
        cr_assert_eq(probe.messages, 1 + (sizes[s] + 262143) / 262144);
        cr_assert_eq(memcmp(buf_head(&probe.all), "first", 5), 0);
        for (at = 5; at < buf_size(&probe.all);) {
            const uint8_t *p = buf_head(&probe.all) + at;
            size_t n = 0, shift = 0, head = 1;

            cr_assert_eq(p[0], 5 << 3 | 2);
            do
                n |= (size_t)(p[head] & 0x7f) << shift;
            while (shift += 7, (p[head++] & 0x80) != 0);
            cr_assert_leq(n, 262144);
            cr_assert_leq(done + n, sizes[s]);
            cr_assert_eq(memcmp(p + head, bytes + done, n), 0);
            done += n;
            at += head + n;
        }
        cr_assert_eq(done, sizes[s]);
        free(bytes);
        probe_finish(&probe);
    }
    rig_finish(&rig);
}

Test(grpc, lent_bytes_that_are_taken_back_are_read_no_more)
{
    const struct call_options options = {.path = "/t.T/Chat", .manual_window = true};
    struct probe cut = {.hold = true}, cancelled = {.hold = true}, next = {0};
    struct probe *probes[] = {&cut, &cancelled};
    size_t n = 8 << 20;
    struct rig rig;

    rig_init(&rig);
    rig_start(&rig);
    for (unsigned i = 0; i < 2; i++) {
        uint8_t *bytes = pattern(n);

        rig_call(&rig, probes[i], &options, NULL, 0);
        call_lend(probes[i]->call, 1, bytes, n, 262144);
        call_half_close(probes[i]->call);
        /* The answers are not taken, but the window of the requests has no such limit. */
        cr_assert(RIG_WAIT(&rig, call_lent(probes[i]->call) < n));
        cr_assert_gt(call_lent(probes[i]->call), 0);
        if (i == 0)
            call_unlend(cut.call);
        else
            call_cancel(cancelled.call);
        memset(bytes, 0, n);
        free(bytes);
    }
    cr_assert_eq(call_lent(cut.call), 0);
    rig_call(&rig, &next, &(struct call_options){.path = "/t.T/Echo"}, "ping", 4);
    cr_assert(RIG_WAIT(&rig, next.ends == 1));
    cr_assert_eq(next.status, GRPC_OK);
    cr_assert_eq(cut.ends, 0, "it is not whole, and so it does not end");
    call_cancel(cut.call);
    probe_finish(&cut);
    probe_finish(&cancelled);
    probe_finish(&next);
    rig_finish(&rig);
}

/* A method that takes its messages by hand: what it has not released does not come. */
static size_t taken;
static struct server_call *taker;

static void take_start(struct server_call *call, void *data)
{
    (void)data;
    taker = call;
}

static void take_message(struct server_call *call, const uint8_t *message, size_t n)
{
    (void)call;
    (void)message;
    taken += n;
}

static void take_end(struct server_call *call)
{
    taker = NULL;
    server_call_finish(call, GRPC_OK, NULL);
}

static void take_gone(struct server_call *call)
{
    (void)call;
}

Test(grpc, a_server_opens_the_window_of_a_manual_method_by_hand)
{
    static const struct server_handler handler = {.on_start = take_start,
                                                  .on_message = take_message,
                                                  .on_half_close = take_end,
                                                  .on_gone = take_gone};
    static const struct server_method method = {.path = "/t.T/Take",
                                                .handler = &handler,
                                                .client_streaming = true,
                                                .manual_window = true};
    struct probe slow = {0};
    size_t n = 8 << 20, released = 0;
    uint8_t *bytes = pattern(n);
    struct rig rig;

    rig_init(&rig);
    rig.server_config.methods = &method;
    rig.server_config.methods_count = 1;
    rig_start(&rig);
    rig_call(&rig, &slow, &(struct call_options){.path = "/t.T/Take"}, NULL, 0);
    call_lend(slow.call, 1, bytes, n, 262144);
    call_half_close(slow.call);
    cr_assert(RIG_WAIT(&rig, taken >= (3 << 18)));
    for (unsigned i = 0; i < 20; i++)
        loop_turn(&rig.loop, 1);
    cr_assert_leq(taken, 1 << 20, "no more than its window");
    while (taker != NULL) {
        server_call_release(taker, taken - released);
        released = taken;
        cr_assert(RIG_WAIT(&rig, taken > released || taker == NULL));
    }
    cr_assert(RIG_WAIT(&rig, slow.ends == 1));
    cr_assert_eq(slow.status, GRPC_OK, "%s", slow.text);
    cr_assert_eq(taken, n + n / 262144 * 4, "a tag and three bytes of length for each part");
    free(bytes);
    probe_finish(&slow);
    rig_finish(&rig);
}

Test(grpc, a_bidirectional_call_answers_each_message_as_it_comes)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Chat"};
    unsigned i;

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &options, NULL, 0);
    for (i = 1; i <= 50; i++) {
        cr_assert_eq(rig_send(probe.call, &i, sizeof(i)), 0);
        cr_assert(RIG_WAIT(&rig, probe.messages == i));
        cr_assert_eq(memcmp(buf_head(&probe.last), &i, sizeof(i)), 0);
    }
    call_half_close(probe.call);
    cr_assert_eq(rig_send(probe.call, &i, sizeof(i)), DRV_ECLOSED);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_OK);
    probe_finish(&probe);
    rig_finish(&rig);
}

Test(grpc, a_sender_hears_when_its_queue_has_room_again)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Chat"};
    uint8_t *bytes = calloc(1, 4000000);

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &options, NULL, 0);
    cr_assert_eq(rig_send(probe.call, bytes, 4000000), 0);
    cr_assert_eq(call_queued(probe.call), 4000005);
    cr_assert(RIG_WAIT(&rig, probe.writables == 1));
    cr_assert_lt(call_queued(probe.call), 65536);
    call_half_close(probe.call);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.bytes, 4000000);
    free(bytes);
    probe_finish(&probe);
    rig_finish(&rig);
}

Test(grpc, a_status_a_text_and_a_pushback_come_through)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Fail"};
    const char *text = "8 \ttab, 100% \xe2\x98\xba\n";

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &options, text, strlen(text));
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(probe.end, CALL_END_STATUS);
    cr_assert_eq(probe.pushback_ms, 250);
    cr_assert_str_eq(probe.text, "tab, 100% \xe2\x98\xba\n");
    cr_assert_eq(probe.messages, 0);
    probe_finish(&probe);
    rig_finish(&rig);
}

Test(grpc, an_unknown_method_is_unimplemented)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Nothing"};

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_UNIMPLEMENTED);
    cr_assert_eq(rig.started, 0);
    rig_finish(&rig);
}

Test(grpc, a_cancelled_call_is_gone_at_the_server_and_silent_here)
{
    struct rig rig;
    struct probe probe = {0}, never = {0};
    const struct call_options options = {.path = "/t.T/Hang"};

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &never, &options, "x", 1);
    call_cancel(never.call); /* before it left */
    rig_call(&rig, &probe, &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, rig.hanging == 1));
    call_cancel(probe.call);
    cr_assert(RIG_WAIT(&rig, rig.gone == 1));
    cr_assert_eq(rig.hanging, 0);
    cr_assert_eq(rig.started, 1);
    cr_assert_eq(probe.ends + never.ends, 0);
    rig_finish(&rig);
}

Test(grpc, a_deadline_ends_the_call_on_both_sides)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Hang", .timeout_us = 50000};
    uint64_t start = clock_mono_us();

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_DEADLINE_EXCEEDED);
    cr_assert_eq(probe.end, CALL_END_DEADLINE);
    cr_assert_geq(clock_mono_us() - start, 50000);
    cr_assert(RIG_WAIT(&rig, rig.gone == 1));
    rig_finish(&rig);
}

Test(grpc, a_request_that_does_not_come_is_not_waited_for)
{
    struct rig rig;
    struct probe silent = {0}, whole = {0};

    rig_init(&rig);
    rig.server_config.request_timeout_us = 50000;
    rig_start(&rig);
    rig_call(&rig, &silent, &echo_options, NULL, 0);
    rig_call(&rig, &whole, &(struct call_options){.path = "/t.T/Hang"}, "x", 1);
    cr_assert(RIG_WAIT(&rig, silent.ends == 1));
    cr_assert_eq(silent.status, GRPC_DEADLINE_EXCEEDED);
    cr_assert_str_eq(silent.text, "the request did not come in time");
    cr_assert(RIG_WAIT(&rig, rig.gone == 1));
    cr_assert_eq(whole.ends, 0); /* it said all it has to say; the answer may take its time */
    call_cancel(whole.call);
    rig_finish(&rig);
}

Test(grpc, a_full_server_makes_room_by_closing_what_proved_nothing)
{
    struct rig rig;
    struct error err = {0};
    struct probe open = {0}, late = {0};
    struct channel *idle, *third;

    rig_init(&rig);
    rig.server_config.max_connections = 2;
    rig_start(&rig);
    rig_call(&rig, &open, &(struct call_options){.path = "/t.T/Hang"}, "x", 1);
    cr_assert(RIG_WAIT(&rig, rig.hanging == 1));
    rig.channel_config.on_state = NULL;
    cr_assert_eq(channel_create(&idle, &rig.loop, &rig.channel_config, &err), 0);
    channel_connect(idle);
    cr_assert(RIG_WAIT(&rig, channel_state(idle) == CHANNEL_READY));

    cr_assert_eq(channel_create(&third, &rig.loop, &rig.channel_config, &err), 0);
    channel_connect(third);
    cr_assert(RIG_WAIT(&rig, channel_state(third) == CHANNEL_READY));
    cr_assert(RIG_WAIT(&rig, channel_state(idle) != CHANNEL_READY));
    cr_assert_eq(rig.hanging, 1);
    channel_destroy(idle);
    call_cancel(open.call);
    channel_destroy(third);
    rig_call(&rig, &late, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, late.ends == 1));
    cr_assert_eq(late.status, GRPC_OK);
    probe_finish(&late);
    rig_finish(&rig);
}

Test(grpc, an_open_call_keeps_no_stranger_in_a_full_server)
{
    struct rig rig;
    struct error err = {0};
    struct probe silent = {0};
    struct channel *second;

    rig_init(&rig);
    rig.server_config.max_connections = 1;
    rig_start(&rig);
    rig_call(&rig, &silent, &echo_options, NULL, 0);
    cr_assert(RIG_WAIT(&rig, channel_state(rig.channel) == CHANNEL_READY));
    rig.channel_config.on_state = NULL;
    cr_assert_eq(channel_create(&second, &rig.loop, &rig.channel_config, &err), 0);
    channel_connect(second);
    cr_assert(RIG_WAIT(&rig, silent.ends == 1));
    cr_assert(RIG_WAIT(&rig, channel_state(second) == CHANNEL_READY));
    channel_destroy(second);
    rig_finish(&rig);
}

Test(grpc, a_message_over_the_limit_is_refused_by_either_side)
{
    struct rig rig;
    struct probe up = {0}, down = {0};
    const struct call_options small = {.path = "/t.T/Pour", .max_message_bytes = 1000};
    uint8_t *bytes = calloc(1, 5000000);

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &up, &echo_options, bytes, 5000000); /* over the server's 4 MiB */
    cr_assert(RIG_WAIT(&rig, up.ends == 1));
    cr_assert_eq(up.status, GRPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(up.end, CALL_END_STATUS);
    rig_call(&rig, &down, &small, "5 1001", 6);
    cr_assert(RIG_WAIT(&rig, down.ends == 1));
    cr_assert_eq(down.status, GRPC_RESOURCE_EXHAUSTED);
    cr_assert_eq(down.end, CALL_END_PROTOCOL);
    cr_assert_eq(down.messages, 0);
    free(bytes);
    rig_finish(&rig);
}

Test(grpc, calls_over_the_servers_stream_limit_wait_their_turn)
{
    struct rig rig;
    struct probe probes[5];
    const struct call_options options = {.path = "/t.T/Hang"};
    unsigned i;

    memset(probes, 0, sizeof(probes));
    rig_init(&rig);
    rig.server_config.max_streams = 2;
    rig_start(&rig);
    channel_connect(rig.channel);
    cr_assert(RIG_WAIT(&rig, channel_state(rig.channel) == CHANNEL_READY));
    for (i = 0; i < 5; i++)
        rig_call(&rig, &probes[i], &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, rig.hanging == 2));
    for (i = 0; i < 4; i++) {
        call_cancel(probes[i].call);
        cr_assert(RIG_WAIT(&rig, rig.started == (i < 3 ? i + 3 : 5)));
        cr_assert_leq(rig.hanging, 2);
    }
    cr_assert(RIG_WAIT(&rig, rig.hanging == 1));
    call_cancel(probes[4].call);
    cr_assert(RIG_WAIT(&rig, rig.hanging == 0));
    rig_finish(&rig);
}

static void note_idle(struct grpc_server *server, void *data)
{
    (void)server;
    *(bool *)data = true;
}

Test(grpc, a_stopping_server_lets_open_calls_finish_and_takes_no_new_ones)
{
    struct rig rig;
    struct probe open = {0}, late = {0};
    const struct call_options chat = {.path = "/t.T/Chat"};
    bool idle = false;

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &open, &chat, NULL, 0);
    cr_assert_eq(rig_send(open.call, "a", 1), 0);
    cr_assert(RIG_WAIT(&rig, open.messages == 1));
    grpc_server_shutdown(rig.server, 60 * US_PER_S, note_idle, &idle);
    cr_assert(RIG_WAIT(&rig, channel_state(rig.channel) != CHANNEL_READY));
    /* The listener is closed, so the new connection fails. */
    rig_call(&rig, &late, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, late.ends == 1));
    cr_assert_eq(late.status, GRPC_UNAVAILABLE);
    cr_assert_eq(late.end, CALL_END_CONNECT);
    cr_assert_not(idle);
    cr_assert_eq(rig_send(open.call, "b", 1), 0);
    cr_assert(RIG_WAIT(&rig, open.messages == 2));
    call_half_close(open.call);
    cr_assert(RIG_WAIT(&rig, open.ends == 1));
    cr_assert_eq(open.status, GRPC_OK);
    cr_assert(RIG_WAIT(&rig, idle));
    probe_finish(&open);
    rig_finish(&rig);
}

Test(grpc, the_grace_of_a_stopping_server_ends)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Hang"};
    bool idle = false;

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, rig.hanging == 1));
    grpc_server_shutdown(rig.server, 100000, note_idle, &idle);
    cr_assert(RIG_WAIT(&rig, idle && probe.ends == 1));
    cr_assert_eq(rig.gone, 1);
    cr_assert_eq(probe.status, GRPC_UNAVAILABLE);
    cr_assert_eq(probe.end, CALL_END_LOST);
    rig_finish(&rig);
}

Test(grpc, destroying_the_server_ends_each_open_call)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Hang"};

    rig_init(&rig);
    rig_start(&rig);
    rig_call(&rig, &probe, &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, rig.hanging == 1));
    grpc_server_destroy(rig.server);
    rig.server = NULL;
    cr_assert_eq(rig.gone, 1);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_UNAVAILABLE);
    rig_finish(&rig);
}

static Grpc__Health__V1__HealthCheckResponse__ServingStatus read_health(struct probe *probe)
{
    Grpc__Health__V1__HealthCheckResponse *response =
        grpc__health__v1__health_check_response__unpack(NULL, buf_size(&probe->last),
                                                        buf_head(&probe->last));
    Grpc__Health__V1__HealthCheckResponse__ServingStatus status;

    cr_assert_not_null(response);
    status = response->status;
    grpc__health__v1__health_check_response__free_unpacked(response, NULL);
    return status;
}

Test(grpc, health_is_checked_and_watched)
{
    struct rig rig;
    struct probe check = {0}, unknown = {0}, watch = {0};
    const struct call_options check_options = {.path = "/grpc.health.v1.Health/Check",
                                               .unary = true};
    const struct call_options watch_options = {.path = "/grpc.health.v1.Health/Watch"};

    rig_init(&rig);
    rig_start(&rig);
    health_service_set(rig.health, "", true);
    rig_call(&rig, &check, &check_options, "", 0);
    rig_call(&rig, &unknown, &check_options, "\x0a\x01z", 3);
    rig_call(&rig, &watch, &watch_options, "\x0a\x01z", 3);
    cr_assert(RIG_WAIT(&rig, check.ends == 1 && unknown.ends == 1 && watch.messages == 1));
    cr_assert_eq(check.status, GRPC_OK);
    cr_assert_eq(read_health(&check), 1);
    cr_assert_eq(unknown.status, GRPC_NOT_FOUND);
    cr_assert_eq(read_health(&watch), 3);
    health_service_set(rig.health, "z", true);
    cr_assert(RIG_WAIT(&rig, watch.messages == 2));
    cr_assert_eq(read_health(&watch), 1);
    health_service_set(rig.health, "z", true); /* no change, no message */
    health_service_set(rig.health, "z", false);
    cr_assert(RIG_WAIT(&rig, watch.messages == 3));
    cr_assert_eq(watch.last.len == 2 && watch.last.data[1] == 2, true);
    call_cancel(watch.call);
    probe_finish(&check);
    probe_finish(&watch);
    rig_finish(&rig);
}

Test(grpc, many_calls_at_once_all_end_well)
{
    enum { COUNT = 500 };
    struct rig rig;
    struct probe *probes = calloc(COUNT, sizeof(*probes));
    const struct call_options options = {.path = "/t.T/Pour"};
    unsigned i, ended = 0;

    rig_init(&rig);
    rig_start(&rig);
    for (i = 0; i < COUNT; i++)
        rig_call(&rig, &probes[i], &options, "40 300", 6);
    cr_assert(RIG_WAIT(&rig, rig.closed == COUNT));
    for (i = 0; i < COUNT; i++) {
        cr_assert(RIG_WAIT(&rig, probes[i].ends == 1));
        ended += probes[i].status == GRPC_OK && probes[i].bytes == 12000 && !probes[i].bad;
        probe_finish(&probes[i]);
    }
    cr_assert_eq(ended, COUNT);
    free(probes);
    rig_finish(&rig);
}

/* test_grpc.c - the gRPC client against the gRPC server, over loopback, in one process. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

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

Test(grpc, a_full_server_makes_room_by_closing_the_idlest_connection)
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

Test(grpc, a_connection_that_fails_for_want_of_descriptors_here_is_no_fault_of_the_peer)
{
    struct rig rig;
    struct probe first = {0}, second = {0};
    struct rlimit files, few;
    int lowest;

    rig_init(&rig);
    rig.channel_config.backoff_min_us = 50000;
    rig_start(&rig);
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &files), 0);
    lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);
    cr_assert_neq(lowest, -1);
    (void)close(lowest);
    few = (struct rlimit){.rlim_cur = (rlim_t)lowest, .rlim_max = files.rlim_max};
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    rig_call(&rig, &first, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, first.ends == 1));
    cr_assert_eq(first.end, CALL_END_LOCAL);
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &files), 0);
    cr_assert(RIG_WAIT(&rig, channel_state(rig.channel) != CHANNEL_BACKOFF));
    rig_call(&rig, &second, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, second.ends == 1));
    cr_assert_eq(second.status, GRPC_OK);
    probe_finish(&first);
    probe_finish(&second);
    rig_finish(&rig);
}

/* A network of its own.  False: not allowed to. */
static bool enter_lone_network(void)
{
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    int fd;
    bool made;

    if (unshare(CLONE_NEWNET) == -1)
        return false;
    fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    made = fd != -1 && ioctl(fd, SIOCSIFFLAGS, &lo) == 0;
    (void)close(fd);
    return made;
}

/* Leaves one port that connections can be made from. */
static void narrow_ports(void)
{
    int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY | O_CLOEXEC);

    cr_assert_neq(fd, -1);
    cr_assert_eq(write(fd, "20000 20000", 11), 11);
    (void)close(fd);
}

Test(grpc, a_connection_that_fails_for_want_of_a_local_port_is_no_fault_of_the_peer)
{
    struct rig rig;
    struct probe first = {0}, second = {0};
    const struct linger reset = {.l_onoff = 1}; /* so that the port is free at once */
    int taken;

    if (!enter_lone_network())
        cr_skip_test("only root can make a network");
    rig_init(&rig);
    rig.channel_config.backoff_min_us = 50000;
    rig_start(&rig);
    narrow_ports();
    taken = socket(rig.addr.sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(taken, (const struct sockaddr *)&rig.addr.sa, rig.addr.len), 0);
    rig_call(&rig, &first, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, first.ends == 1));
    cr_assert_eq(first.end, CALL_END_LOCAL, "%s", first.text);
    cr_assert_eq(setsockopt(taken, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
    (void)close(taken);
    cr_assert(RIG_WAIT(&rig, channel_state(rig.channel) != CHANNEL_BACKOFF));
    rig_call(&rig, &second, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, second.ends == 1));
    cr_assert_eq(second.status, GRPC_OK);
    probe_finish(&first);
    probe_finish(&second);
    rig_finish(&rig);
}

Test(grpc, a_refused_connection_fails_calls_at_once_and_is_tried_again)
{
    struct rig rig;
    struct probe first = {0}, second = {0}, patient = {0};
    const struct call_options wait = {.path = "/t.T/Echo", .wait_for_ready = true};
    struct error err = {0};
    char text[NET_TEXT_BYTES];
    int fd;

    rig_init(&rig);
    rig.channel_config.backoff_min_us = 100000;
    rig_start(&rig);
    grpc_server_destroy(rig.server);
    rig.server = NULL;
    rig_call(&rig, &first, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, first.ends == 1));
    cr_assert_eq(first.status, GRPC_UNAVAILABLE);
    cr_assert_eq(first.end, CALL_END_CONNECT);
    cr_assert_str_eq(first.text, "Connection refused");
    cr_assert_eq(channel_state(rig.channel), CHANNEL_BACKOFF);
    rig_call(&rig, &patient, &wait, "x", 1);
    rig_call(&rig, &second, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, second.ends == 1));
    cr_assert_eq(second.end, CALL_END_CONNECT);
    cr_assert_eq(patient.ends, 0);
    net_format(text, sizeof(text), &rig.addr);
    fd = net_listen(text, 16, &err);
    cr_assert_geq(fd, 0, "%s", err.text);
    cr_assert_eq(grpc_server_create(&rig.server, &rig.loop, &rig.server_config, &err), 0);
    cr_assert_eq(grpc_server_listen(rig.server, fd, &err), 0);
    cr_assert(RIG_WAIT(&rig, patient.ends == 1));
    cr_assert_eq(patient.status, GRPC_OK);
    probe_finish(&patient);
    rig_finish(&rig);
}

Test(grpc, a_peer_that_accepts_and_says_nothing_times_out)
{
    struct rig rig;
    struct probe probe = {0};
    struct error err = {0};
    struct net_addr addr;
    int fd = net_listen("127.0.0.1:0", 4, &err);

    rig_init(&rig);
    rig.channel_config.connect_timeout_us = 100000;
    rig_start(&rig);
    channel_destroy(rig.channel);
    cr_assert_eq(net_local(&addr, fd, &err), 0);
    rig.channel_config.addr = addr;
    cr_assert_eq(channel_create(&rig.channel, &rig.loop, &rig.channel_config, &err), 0);
    rig_call(&rig, &probe, &echo_options, "x", 1);
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_UNAVAILABLE);
    cr_assert_str_eq(probe.text, "no HTTP/2 SETTINGS in time");
    (void)close(fd);
    rig_finish(&rig);
}

struct destroyer {
    struct rig *rig;
    bool cancel;
    unsigned messages, ends;
};

static void destroy_in_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct destroyer *d = data;

    (void)message;
    (void)n;
    if (d->messages++ != 0)
        return;
    if (d->cancel) {
        call_cancel(call);
    } else {
        channel_destroy(d->rig->channel);
        d->rig->channel = NULL;
    }
}

static void count_end(struct call *call, const struct call_result *result, void *data)
{
    (void)call;
    (void)result;
    ((struct destroyer *)data)->ends++;
}

Test(grpc, a_channel_or_a_call_may_be_destroyed_from_its_own_callback)
{
    static const struct call_handler handler = {.on_message = destroy_in_message,
                                                .on_end = count_end};
    const struct call_options options = {.path = "/t.T/Pour"};
    int i;

    for (i = 0; i < 2; i++) {
        struct rig rig;
        struct destroyer d = {.rig = &rig, .cancel = i == 0};
        struct call *call;

        rig_init(&rig);
        rig_start(&rig);
        cr_assert_eq(call_start(&call, rig.channel, &options, &handler, &d, NULL), 0);
        cr_assert_eq(rig_send(call, "1000 1000", 9), 0);
        call_half_close(call);
        cr_assert(RIG_WAIT(&rig, rig.gone + rig.closed == 1));
        cr_assert_eq(d.messages, 1);
        cr_assert_eq(d.ends, 0);
        rig_finish(&rig);
    }
}

Test(grpc, a_silent_connection_is_pinged_and_a_dead_one_found)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Hang"};
    struct error err = {0};
    struct net_addr addr;
    uint8_t bytes[512];
    int listener = net_listen("127.0.0.1:0", 4, &err), fd;
    /* An empty SETTINGS frame: all that this peer ever says. */
    static const uint8_t settings[9] = {0, 0, 0, 4, 0, 0, 0, 0, 0};

    rig_init(&rig);
    rig.channel_config.keepalive_us = 50000;
    rig.channel_config.keepalive_timeout_us = 100000;
    rig_start(&rig);
    channel_destroy(rig.channel);
    cr_assert_eq(net_local(&addr, listener, &err), 0);
    rig.channel_config.addr = addr;
    cr_assert_eq(channel_create(&rig.channel, &rig.loop, &rig.channel_config, &err), 0);
    rig_call(&rig, &probe, &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) != -1));
    cr_assert_eq(write(fd, settings, sizeof(settings)), (ssize_t)sizeof(settings));
    cr_assert(RIG_WAIT(&rig, probe.ends == 1));
    cr_assert_eq(probe.status, GRPC_UNAVAILABLE);
    cr_assert_eq(probe.end, CALL_END_LOST);
    cr_assert_str_eq(probe.text, "keepalive timeout");
    cr_assert_gt(recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT), 0);
    (void)close(fd);
    (void)close(listener);
    rig_finish(&rig);
}

Test(grpc, a_quiet_but_living_connection_stays)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Hang"};
    uint64_t until;

    rig_init(&rig);
    rig.channel_config.keepalive_us = 20000;
    rig.channel_config.keepalive_timeout_us = 100000;
    rig.server_config.min_ping_interval_us = 1;
    rig_start(&rig);
    rig_call(&rig, &probe, &options, "x", 1);
    until = clock_mono_us() + 600000; /* some five PINGs */
    cr_assert(RIG_WAIT(&rig, clock_mono_us() > until));
    cr_assert_eq(probe.ends, 0);
    cr_assert_eq(rig.hanging, 1);
    call_cancel(probe.call);
    rig_finish(&rig);
}

/* The PINGs among the frames that came on `fd`; each is answered. */
static unsigned take_pings(int fd, struct buf *in)
{
    uint8_t bytes[512], ack[17] = {0, 0, 8, 6, 1};
    unsigned pings = 0;
    ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    const uint8_t *frame;
    size_t len;

    if (n > 0)
        buf_add(in, bytes, (size_t)n);
    while (buf_size(in) >= 9) {
        frame = buf_head(in);
        len = 9 + ((size_t)frame[0] << 16 | (size_t)frame[1] << 8 | frame[2]);
        if (buf_size(in) < len)
            break;
        if (frame[3] == 6 && frame[4] == 0) {
            pings++;
            memcpy(ack + 9, frame + 9, 8);
            cr_assert_eq(write(fd, ack, sizeof(ack)), (ssize_t)sizeof(ack));
        }
        buf_consume(in, len);
    }
    return pings;
}

Test(grpc, a_client_pings_no_more_than_grpc_servers_put_up_with)
{
    struct rig rig;
    struct probe probe = {0};
    const struct call_options options = {.path = "/t.T/Hang"};
    struct error err = {0};
    struct buf in = BUF_INIT;
    int listener = net_listen("127.0.0.1:0", 4, &err), fd;
    unsigned pings = 0;
    uint64_t until;
    static const uint8_t settings[9] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
    /* HEADERS on stream 1: ":status" 200, and "content-type", a literal of 16 bytes. */
    static const uint8_t head[] = "\0\0\x13\1\4\0\0\0\1\x88\x5f\x10"
                                  "application/grpc";

    rig_init(&rig);
    rig.channel_config.keepalive_us = 10000;
    rig.channel_config.keepalive_timeout_us = 50000;
    rig.channel_config.keepalive_idle = true;
    rig_start(&rig);
    channel_destroy(rig.channel);
    cr_assert_eq(net_local(&rig.channel_config.addr, listener, &err), 0);
    cr_assert_eq(channel_create(&rig.channel, &rig.loop, &rig.channel_config, &err), 0);
    channel_connect(rig.channel);
    cr_assert(RIG_WAIT(&rig, (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) != -1));
    cr_assert_eq(write(fd, settings, sizeof(settings)), (ssize_t)sizeof(settings));
    cr_assert(RIG_WAIT(&rig, recv(fd, &(uint8_t[24]){0}, 24, MSG_DONTWAIT) == 24));

    /* While no call is open, the first one, which no server counts, and no other. */
    until = clock_mono_us() + 500000;
    cr_assert(RIG_WAIT(&rig, (pings += take_pings(fd, &in), clock_mono_us() > until)));
    cr_assert_eq(pings, 1);
    /* Two more in an open call, and then none for a long time, ... */
    rig_call(&rig, &probe, &options, "x", 1);
    cr_assert(RIG_WAIT(&rig, (pings += take_pings(fd, &in), pings == 3)));
    until = clock_mono_us() + 500000;
    cr_assert(RIG_WAIT(&rig, (pings += take_pings(fd, &in), clock_mono_us() > until)));
    cr_assert_eq(pings, 3);
    /* ... unless the server has something to say. */
    cr_assert_eq(write(fd, head, sizeof(head) - 1), (ssize_t)sizeof(head) - 1);
    cr_assert(RIG_WAIT(&rig, (pings += take_pings(fd, &in), pings == 6)));
    cr_assert_eq(probe.ends, 0);
    call_cancel(probe.call);
    buf_finish(&in);
    (void)close(fd);
    (void)close(listener);
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

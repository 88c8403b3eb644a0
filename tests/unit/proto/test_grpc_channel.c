/* test_grpc_channel.c - connections that fail, fall silent, or end under a call. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "rig.h"

static const struct call_options echo_options = {.path = "/t.T/Echo"};

Test(grpc_channel, a_connection_that_fails_for_want_of_descriptors_here_is_no_fault_of_the_peer)
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

Test(grpc_channel, a_connection_that_fails_for_want_of_a_local_port_is_no_fault_of_the_peer)
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

Test(grpc_channel, a_refused_connection_fails_calls_at_once_and_is_tried_again)
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

Test(grpc_channel, a_peer_that_accepts_and_says_nothing_times_out)
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

Test(grpc_channel, a_channel_or_a_call_may_be_destroyed_from_its_own_callback)
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

Test(grpc_channel, a_silent_connection_is_pinged_and_a_dead_one_found)
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

Test(grpc_channel, a_quiet_but_living_connection_stays)
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

Test(grpc_channel, a_client_pings_no_more_than_grpc_servers_put_up_with)
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

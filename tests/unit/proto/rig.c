/* rig.c - a gRPC server and a channel on one loop, for tests in one process. */
#include "rig.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "tests/raw_message.h"

struct pour {
    struct rig *rig;
    unsigned long left;
    size_t size;
    uint8_t *bytes;
    bool done;
};

int rig_send(struct call *call, const void *bytes, size_t n)
{
    struct raw_message raw;

    return call_send(call, raw_message(&raw, bytes, n));
}

int rig_answer(struct server_call *call, const void *bytes, size_t n)
{
    struct raw_message raw;

    return server_call_send(call, raw_message(&raw, bytes, n));
}

/* ---- methods -------------------------------------------------------------------------- */

static struct rig *rig_of(struct server_call *call)
{
    return server_call_data(call);
}

static void on_start(struct server_call *call, void *data)
{
    struct rig *rig = data;

    rig->started++;
    server_call_set_data(call, rig);
}

static void on_gone(struct server_call *call)
{
    rig_of(call)->gone++;
}

static void on_closed(struct server_call *call)
{
    rig_of(call)->closed++;
}

static void echo(struct server_call *call, const uint8_t *message, size_t n)
{
    cr_assert_eq(rig_answer(call, message, n), 0);
}

static void finish_ok(struct server_call *call)
{
    server_call_finish(call, GRPC_OK, NULL);
}

static void hang(struct server_call *call, const uint8_t *message, size_t n)
{
    (void)message;
    (void)n;
    rig_of(call)->hanging++;
    server_call_vouch(call);
}

static void hang_gone(struct server_call *call)
{
    rig_of(call)->hanging--;
    on_gone(call);
}

static void fail(struct server_call *call, const uint8_t *message, size_t n)
{
    char text[128];
    int code = 0, used = 0;

    cr_assert_lt(n, sizeof(text));
    memcpy(text, message, n);
    text[n] = '\0';
    cr_assert_eq(sscanf(text, "%d %n", &code, &used), 1);
    server_call_finish_pushback(call, (enum grpc_status)code, text + used, 250);
}

static void pour_more(struct server_call *call)
{
    struct pour *pour = server_call_data(call);

    while (pour->left != 0 && server_call_queued(call) < 65536) {
        cr_assert_eq(rig_answer(call, pour->bytes, pour->size), 0);
        pour->left--;
        pour->rig->poured++;
    }
    if (pour->left == 0 && !pour->done) {
        pour->done = true;
        server_call_finish(call, GRPC_OK, NULL);
    }
}

static void pour_start(struct server_call *call, void *data)
{
    struct pour *pour = calloc(1, sizeof(*pour));

    pour->rig = data;
    pour->rig->started++;
    server_call_set_data(call, pour);
}

static void pour(struct server_call *call, const uint8_t *message, size_t n)
{
    struct pour *pour = server_call_data(call);
    char text[64];

    n = n < sizeof(text) ? n : sizeof(text) - 1;
    memcpy(text, message, n);
    text[n] = '\0';
    if (sscanf(text, "%lu %zu", &pour->left, &pour->size) != 2 || pour->size > 4000000) {
        pour->done = true;
        server_call_finish(call, GRPC_INVALID_ARGUMENT, "COUNT SIZE");
        return;
    }
    pour->bytes = malloc(pour->size);
    memset(pour->bytes, 'p', pour->size);
    pour_more(call);
}

static void pour_over(struct server_call *call)
{
    struct pour *pour = server_call_data(call);
    struct rig *rig = pour->rig;

    if (pour->done)
        rig->closed++;
    else
        rig->gone++;
    free(pour->bytes);
    free(pour);
}

static const struct server_handler echo_handler = {.on_start = on_start,
                                                   .on_message = echo,
                                                   .on_half_close = finish_ok,
                                                   .on_gone = on_gone,
                                                   .on_closed = on_closed};
static const struct server_handler hang_handler = {
    .on_start = on_start, .on_message = hang, .on_gone = hang_gone, .on_closed = on_closed};
static const struct server_handler fail_handler = {
    .on_start = on_start, .on_message = fail, .on_gone = on_gone, .on_closed = on_closed};
static const struct server_handler pour_handler = {.on_start = pour_start,
                                                   .on_message = pour,
                                                   .on_gone = pour_over,
                                                   .on_closed = pour_over,
                                                   .on_writable = pour_more};

static struct server_method methods[7] = {
    {.path = "/t.T/Echo", .handler = &echo_handler},
    {.path = "/t.T/Chat", .handler = &echo_handler, .client_streaming = true},
    {.path = "/t.T/Pour", .handler = &pour_handler},
    {.path = "/t.T/Hang", .handler = &hang_handler},
    {.path = "/t.T/Fail", .handler = &fail_handler},
};

/* ---- life ----------------------------------------------------------------------------- */

static void on_state(struct channel *channel, enum channel_state state, const char *why,
                     void *data)
{
    struct rig *rig = data;

    (void)channel;
    (void)why;
    if (rig->states_count < 16)
        rig->states[rig->states_count++] = state;
}

void rig_init(struct rig *rig)
{
    struct error err = {0};
    size_t i;

    memset(rig, 0, sizeof(*rig));
    cr_assert_eq(loop_init(&rig->loop, &err), 0, "%s", err.text);
    cr_assert_eq(health_service_create(&rig->health, &err), 0);
    for (i = 0; i < 5; i++)
        methods[i].data = rig;
    health_service_methods(rig->health, methods + 5);
    rig->server_config.methods = methods;
    rig->server_config.methods_count = 7;
    rig->channel_config.on_state = on_state;
    rig->channel_config.data = rig;
}

void rig_start(struct rig *rig)
{
    struct error err = {0};
    int fd = net_listen("127.0.0.1:0", 64, &err);

    cr_assert_geq(fd, 0, "%s", err.text);
    cr_assert_eq(net_local(&rig->addr, fd, &err), 0);
    cr_assert_eq(grpc_server_create(&rig->server, &rig->loop, &rig->server_config, &err), 0);
    cr_assert_eq(grpc_server_listen(rig->server, fd, &err), 0);
    rig->channel_config.addr = rig->addr;
    cr_assert_eq(channel_create(&rig->channel, &rig->loop, &rig->channel_config, &err), 0);
}

void rig_finish(struct rig *rig)
{
    channel_destroy(rig->channel);
    grpc_server_destroy(rig->server);
    health_service_destroy(rig->health);
    loop_finish(&rig->loop);
}

/* ---- calls ---------------------------------------------------------------------------- */

static void on_message(struct call *call, const uint8_t *message, size_t n, void *data)
{
    struct probe *probe = data;
    size_t i;

    probe->messages++;
    probe->bytes += n;
    for (i = 0; i < n; i += 997)
        probe->bad |= message[i] != 'p';
    buf_reset(&probe->last);
    buf_add(&probe->last, message, n);
    if (probe->keep)
        buf_add(&probe->all, message, n);
    if (!probe->hold)
        call_release(call, n);
}

static void on_batch(struct call *call, void *data)
{
    (void)call;
    ((struct probe *)data)->batches++;
}

static void on_end(struct call *call, const struct call_result *result, void *data)
{
    struct probe *probe = data;

    cr_assert_eq(call, probe->call);
    probe->call = NULL;
    probe->ends++;
    probe->status = result->status;
    probe->end = result->end;
    probe->pushback_ms = result->pushback_ms;
    (void)snprintf(probe->text, sizeof(probe->text), "%s", result->message);
}

static void on_call_writable(struct call *call, void *data)
{
    (void)call;
    ((struct probe *)data)->writables++;
}

static const struct call_handler handler = {.on_message = on_message,
                                            .on_batch = on_batch,
                                            .on_end = on_end,
                                            .on_writable = on_call_writable};

void rig_call(struct rig *rig, struct probe *probe, const struct call_options *options,
              const void *message, size_t n)
{
    struct error err = {0};

    cr_assert_eq(call_start(&probe->call, rig->channel, options, &handler, probe, &err), 0,
                 "%s", err.text);
    if (message != NULL) {
        cr_assert_eq(rig_send(probe->call, message, n), 0);
        call_half_close(probe->call);
    }
}

void probe_finish(struct probe *probe)
{
    buf_finish(&probe->last);
    buf_finish(&probe->all);
}

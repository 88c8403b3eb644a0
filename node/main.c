/* main.c - drover-node: start, run, drain, exit. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/descriptors.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/io/signal_fd.h"
#include "base/log.h"
#include "base/secure/privileges.h"
#include "base/secure/sandbox.h"
#include "base/version.h"
#include "node/agent.h"
#include "node/engine/engine.h"
#include "node/options.h"
#include "node/report/registration.h"
#include "node/service.h"
#include "proto/rpc/grpc/server.h"
#include "proto/rpc/h2/tls.h"
#include "proto/wire.h"

#define CLOSE_GRACE_US (2 * US_PER_S) /* for the last bytes of finished calls */
#define TURN_MAX_US    US_PER_S

/* RUNNING -> DRAINING -> CLOSING -> DONE; a second signal goes to DONE at once. */
enum node_phase {
    NODE_RUNNING = 0,
    NODE_DRAINING, /* waits for open requests, and for coordinators to let go */
    NODE_CLOSING,  /* waits for connections to close */
    NODE_DONE,
};

struct node_program {
    struct options options;
    struct loop loop;
    struct engine *engine;
    struct agent *agent;
    struct service *service;
    struct grpc_server *server;
    struct registration *registrations[OPTIONS_MAX_COORDINATORS];
    SSL_CTX *server_tls, *coordinator_tls;
    struct watch *signals;
    int signal_fd;
    struct timer drain_timer;
    enum node_phase phase;
    struct log_limit version_limit;
};

static void on_closed(struct grpc_server *server, void *data)
{
    struct node_program *node = data;

    (void)server;
    node->phase = NODE_DONE;
}

static void close_down(struct node_program *node)
{
    timer_stop(&node->loop, &node->drain_timer);
    node->phase = NODE_CLOSING;
    grpc_server_shutdown(node->server, CLOSE_GRACE_US, on_closed, node);
}

static void on_drain_over(struct timer *timer)
{
    struct node_program *node = CONTAINER_OF(timer, struct node_program, drain_timer);

    log_warn("event=drain_timeout running=%u queued=%u", (unsigned)node->agent->slots.active,
             (unsigned)node->agent->slots.queued);
    node->phase = NODE_DONE;
}

static void drain(struct node_program *node, const char *why)
{
    uint32_t drain_ms = node->options.drain_timeout_s * 1000;

    log_info("event=draining why=%s running=%u queued=%u", why,
             (unsigned)node->agent->slots.active, (unsigned)node->agent->slots.queued);
    node->phase = NODE_DRAINING;
    agent_drain(node->agent);
    for (size_t i = 0; i < node->options.coordinators_count; i++)
        registration_leave(node->registrations[i], why, drain_ms);
    timer_start(&node->loop, &node->drain_timer, drain_ms * US_PER_MS, on_drain_over);
}

/* Draining is over when nothing runs here and no coordinator has anything open with us. */
static void check_drained(struct node_program *node)
{
    if (node->phase != NODE_DRAINING || !agent_idle(node->agent))
        return;
    for (size_t i = 0; i < node->options.coordinators_count; i++)
        if (!registration_left(node->registrations[i]))
            return;
    log_info("event=drained");
    close_down(node);
}

static int load_tokens(struct node_program *node, struct error *err)
{
    char tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1] = {0};
    int rc = 0;

    if (node->options.token_file != NULL)
        rc = options_read_tokens(tokens, node->options.token_file, err);
    if (rc == 0)
        agent_set_tokens(node->agent, tokens);
    explicit_bzero(tokens, sizeof(tokens));
    return rc;
}

static void reload(struct node_program *node)
{
    struct error err = {0};

    if (load_tokens(node, &err) != 0) {
        log_error("event=reload_failed why=%s hint=\"the old tokens stay\"",
                  log_quote(err.text));
        return;
    }
    log_info("event=reloaded");
    for (size_t i = 0; i < node->options.coordinators_count; i++)
        registration_tokens_changed(node->registrations[i]);
}

static void on_signal(struct watch *watch, void *data)
{
    struct node_program *node = data;
    struct signalfd_siginfo info;
    struct error err = {0};

    (void)watch;
    while (signal_fd_read(node->signal_fd, &info)) {
        switch ((int)info.ssi_signo) {
        case SIGTERM:
        case SIGINT:
        case SIGQUIT:
            if (node->phase == NODE_RUNNING)
                drain(node, info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
            else
                node->phase = NODE_DONE;
            break;
        case SIGHUP:
            reload(node);
            break;
        case SIGUSR1:
            if (log_reopen(&err) != 0)
                log_error("event=log_reopen_failed why=%s", log_quote(err.text));
            break;
        default: /* only those above are in the mask */
            break;
        }
    }
}

static int watch_signals(struct node_program *node, struct error *err)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1};

    (void)signal(SIGPIPE, SIG_IGN);
    node->signal_fd = signal_fd_open(numbers, ARRAY_LEN(numbers), err);
    if (node->signal_fd < 0)
        return node->signal_fd;
    node->signals = watch_start(&node->loop, node->signal_fd, on_signal, node, err);
    return node->signals == NULL ? DRV_ESYS : 0;
}

/* OpenSSL takes its file names as struct config_tls gives them, without const. */
static struct config_tls tls_of(const char *cert, const char *key, const char *ca)
{
    return (struct config_tls){.enabled = true,
                               .cert = (char *)(uintptr_t)cert,
                               .key = (char *)(uintptr_t)key,
                               .ca = (char *)(uintptr_t)ca};
}

static int make_tls(struct node_program *node, struct error *err)
{
    const struct options *o = &node->options;
    struct config_tls tls;
    int rc = 0;

    if (o->tls_cert != NULL) {
        tls = tls_of(o->tls_cert, o->tls_key, o->tls_ca);
        rc = tls_server_context(&node->server_tls, &tls, TLS_PROTOCOL_H2, err);
    }
    if (rc == 0 && o->coordinator_tls_ca != NULL) {
        tls = tls_of(o->tls_cert, o->tls_key, o->coordinator_tls_ca);
        rc = tls_client_context(&node->coordinator_tls, &tls, err);
    }
    return rc;
}

/* A request of a coordinator of another major version. */
static void on_unknown(void *data, const struct net_addr *peer, const char *path, size_t n)
{
    struct node_program *node = data;
    char text[NET_TEXT_BYTES];
    uint32_t missed;

    if (!wire_is_other_version(path, n) || !log_limit_minute(&node->version_limit, &missed))
        return;
    net_format(text, sizeof(text), peer);
    log_warn("event=call_refused peer=%s why=\"another major version of the protocol\" "
             "asked=%s spoken=drover.v1 missed=%u",
             log_quote(text), log_quote_n(path, n), missed);
}

/* Listens; *port gets the port that was bound. */
static int serve(struct node_program *node, uint16_t *port, struct error *err)
{
    struct server_config config = {.methods = service_methods(node->service),
                                   .methods_count = SERVICE_METHODS,
                                   .tls = node->server_tls,
                                   .max_streams = 8192,
                                   .on_unknown = on_unknown,
                                   .data = node};
    char text[NET_TEXT_BYTES];
    struct net_addr local;
    int fd, rc;

    rc = grpc_server_create(&node->server, &node->loop, &config, err);
    if (rc != 0)
        return rc;
    fd = net_listen(node->options.listen, 1024, err);
    if (fd < 0)
        return error_wrap(err, fd, "--listen %s", node->options.listen);
    rc = net_local(&local, fd, err);
    if (rc == 0)
        rc = grpc_server_listen(node->server, fd, err);
    else
        (void)close(fd);
    if (rc != 0)
        return rc;
    net_format(text, sizeof(text), &local);
    *port = net_port(&local);
    log_info("event=listening address=%s port=%u name=%s tls=%d", text, (unsigned)*port,
             node->options.name, node->server_tls != NULL);
    return 0;
}

/* A node that other machines reach is open to none of them by mistake. */
static int check_exposure(const struct options *o, struct error *err)
{
    if (o->token_file != NULL || o->tls_ca != NULL || o->insecure_no_token ||
        net_is_local(o->listen))
        return 0;
    return error_set(err, DRV_EINVAL,
                     "other machines can reach %.80s: give --token-file FILE or --tls-ca FILE, "
                     "or --insecure-no-token if all of them may use the engine",
                     o->listen);
}

static void say_open(const struct options *o)
{
    if (o->token_file != NULL)
        return;
    if (o->tls_ca != NULL)
        log_info("event=open hint=\"no token: everyone with a certificate of --tls-ca can use "
                 "the engine\"");
    else if (o->insecure_no_token)
        log_info("event=open hint=\"no token: everyone who reaches this port can use the "
                 "engine\"");
    else
        log_warn("event=open hint=\"NO TOKEN: everyone who reaches this port can use the "
                 "engine; give --token-file\"");
}

static int start(struct node_program *node, struct error *err)
{
    const struct options *o = &node->options;
    struct agent_config config = {.slots_min = o->slots_min,
                                  .slots_max = o->slots_max,
                                  .queue = o->queue,
                                  .resume_ids = o->resume_ids};
    struct engine_config engine = {.url = o->engine,
                                   .key_file = o->engine_key_file,
                                   .ca_file = o->engine_ca,
                                   .insecure = o->engine_insecure,
                                   .offer = {.models = o->models,
                                             .models_count = o->models_count,
                                             .operations = o->operations},
                                   .look_every_s = o->look_every_s};
    struct registration_config joining = {.host = o->advertise};
    uint16_t port = 0;
    int rc;

    rc = loop_init(&node->loop, err);
    if (rc == 0)
        rc = watch_signals(node, err);
    if (rc == 0)
        rc = make_tls(node, err);
    if (rc == 0)
        rc = engine_create(&node->engine, &node->loop, &engine, err);
    if (rc != 0)
        return rc;
    (void)strlcpy(config.node_id, o->name, sizeof(config.node_id));
    arc4random_buf(config.instance_id, sizeof(config.instance_id));
    rc = agent_create(&node->agent, &node->loop, node->engine, &config, err);
    if (rc == 0)
        rc = service_create(&node->service, node->agent, err);
    if (rc == 0)
        rc = load_tokens(node, err);
    if (rc == 0)
        rc = serve(node, &port, err);
    if (rc != 0)
        return rc;
    if (o->engine_insecure)
        log_warn(
            "event=engine_insecure hint=\"the engine's certificate is not checked: anyone in "
            "between can read and change all\"");
    say_open(o);
    joining.port = port;
    joining.tls = node->server_tls != NULL;
    joining.coordinator_tls = node->coordinator_tls;
    for (size_t i = 0; rc == 0 && i < o->coordinators_count; i++) {
        joining.coordinator = o->coordinators[i];
        rc = registration_create(&node->registrations[i], node->agent, &joining, err);
    }
    return rc;
}

/* Releases what start() got, also after it failed half way. */
static void finish(struct node_program *node)
{
    if (node->loop.h2o == NULL)
        return;
    timer_stop(&node->loop, &node->drain_timer);
    for (size_t i = 0; i < node->options.coordinators_count; i++)
        registration_destroy(node->registrations[i]);
    grpc_server_destroy(node->server);
    service_destroy(node->service);
    agent_destroy(node->agent);
    engine_destroy(node->engine);
    watch_stop(node->signals);
    SSL_CTX_free(node->server_tls);
    SSL_CTX_free(node->coordinator_tls);
    loop_finish(&node->loop);
    if (node->signal_fd >= 0)
        (void)close(node->signal_fd);
}

int main(int argc, char **argv, char **environment)
{
    static struct node_program node = {.signal_fd = -1};
    struct error err = {0};

    setproctitle_init(argc, argv, environment);
    if (options_parse(&node.options, argc, argv, &err) != 0)
        return command_line_wrong("drover-node", &err);
    if (command_line_answered(&node.options.line, "drover-node", version_text(), options_help))
        return EXIT_SUCCESS;
    if (engine_check_url(node.options.engine, &err) != 0 ||
        check_exposure(&node.options, &err) != 0)
        return command_line_wrong("drover-node", &err);
    privileges_lock(node.options.core_dumps);
    log_set_proc("node");
    log_set_level(node.options.line.log_level);
    (void)descriptors_raise(DESCRIPTORS_MANY);
    if (log_open(node.options.log_file, &err) != 0 || start(&node, &err) != 0) {
        (void)fprintf(stderr, "drover-node: %s\n", err.text);
        finish(&node);
        return EXIT_FAILURE; /* a file may be written anew: another start may succeed */
    }
    /* All that is opened for good is open; threads that resolve names come under it, too. */
    if (sandbox_enter(SANDBOX_NODE, node.options.seccomp, &err) != 0) {
        (void)fprintf(stderr, "drover-node: %s\n", err.text);
        finish(&node);
        return EXIT_FAILURE;
    }
    setproctitle("%s %s", node.options.name, node.options.engine);
    while (node.phase != NODE_DONE) {
        loop_turn(&node.loop, TURN_MAX_US);
        check_drained(&node);
    }
    log_info("event=exit");
    finish(&node);
    return EXIT_SUCCESS;
}

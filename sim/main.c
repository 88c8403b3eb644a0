/*
 * main.c - drover-sim: serves simulated engines over HTTP until a signal.
 *
 * Each --engine is an engine of its own with a port of its own; they share the process and its
 * event loop, and nothing else.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config/command_line.h"
#include "base/error.h"
#include "base/io/descriptors.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/io/signal_fd.h"
#include "base/log.h"
#include "base/version.h"
#include "sim/sim_engine.h"
#include "sim/sim_http.h"

#define MAX_ENGINES    1024
#define TURN_MAX_US    (100 * US_PER_MS)
#define DEFAULT_LISTEN "127.0.0.1:8091"

static const char HELP[] =
    "usage: drover-sim [--listen HOST:PORT] [--engine SPEC]...\n"
    "\n"
    "Serves engines that only pretend, over HTTP, for demos, tests and benchmarks.\n"
    "\n"
    "  --listen HOST:PORT   where the first engine listens [127.0.0.1:8091]; the next ones "
    "take\n"
    "                       the ports after it; port 0: each takes a free one\n"
    "  --engine SPEC        settings of one engine, \"key=value,...\"; may be repeated; "
    "without\n"
    "                       it there is one engine with all defaults\n"
    "  --log-level LEVEL    error, warn, info or debug [info]\n"
    "  -h, --help           this text\n"
    "  -V, --version        the version\n"
    "\n"
    "Signals: TERM and INT break every connection off and exit.\n";

struct sim_options {
    const char *listen;
    const char *specs[MAX_ENGINES];
    size_t count;
    struct command_line line;
};

struct served {
    struct sim_engine *engine;
    struct sim_http *http;
};

struct program {
    struct sim_options options;
    struct loop loop;
    struct served served[MAX_ENGINES];
    int signal_fd;
    struct watch *signals;
    bool stopping;
};

enum {
    OPT_LISTEN = 256,
    OPT_ENGINE,
};

static int take_option(void *data, int option, const char *value, struct error *err)
{
    struct sim_options *o = data;

    switch (option) {
    case OPT_LISTEN:
        o->listen = value;
        return 0;
    case OPT_ENGINE:
        if (o->count == MAX_ENGINES)
            return error_set(err, DRV_EINVAL, "more than %d engines", MAX_ENGINES);
        o->specs[o->count++] = value;
        return 0;
    default: /* getopt_long(3) gives an int */
        return error_set(err, DRV_EINVAL, "option not handled: %d", option);
    }
}

static int parse(struct sim_options *o, int argc, char **argv, struct error *err)
{
    static const struct option OPTIONS[] = {
        {"listen", required_argument, NULL, OPT_LISTEN},
        {"engine", required_argument, NULL, OPT_ENGINE},
        COMMAND_LINE_COMMON,
    };
    int rc;

    o->listen = DEFAULT_LISTEN;
    rc = command_line_parse(&o->line, argc, argv, OPTIONS, take_option, o, err);
    if (rc == 0 && o->count == 0)
        o->specs[o->count++] = "";
    return rc;
}

static void on_signal(struct watch *watch, void *data)
{
    struct program *program = data;
    struct signalfd_siginfo info;

    (void)watch;
    while (signal_fd_read(program->signal_fd, &info))
        program->stopping = true;
}

static int watch_signals(struct program *program, struct error *err)
{
    static const int NUMBERS[] = {SIGTERM, SIGINT};

    program->signal_fd = signal_fd_open(NUMBERS, ARRAY_LEN(NUMBERS), err);
    if (program->signal_fd < 0)
        return program->signal_fd;
    program->signals = watch_start(&program->loop, program->signal_fd, on_signal, program, err);
    return program->signals == NULL ? DRV_ESYS : 0;
}

/* Starts engine number `i`, on the i-th port from the first. */
static int serve(struct program *program, size_t i, const char *host, uint16_t port,
                 struct error *err)
{
    struct served *served = &program->served[i];
    char address[NET_TEXT_BYTES * 2];
    int rc;

    rc = sim_engine_create(&served->engine, &program->loop, program->options.specs[i], err);
    if (rc != 0)
        return rc;
    if (port != 0 && port + i > UINT16_MAX)
        return error_set(err, DRV_EINVAL, "--listen: no port is left for engine %zu", i + 1);
    (void)snprintf(address, sizeof(address), strchr(host, ':') == NULL ? "%s:%zu" : "[%s]:%zu",
                   host, port == 0 ? (size_t)0 : port + i);
    rc = sim_http_open(&served->http, served->engine, &program->loop, address, err);
    if (rc == 0)
        log_info("event=listening address=%s engine=%zu name=%s",
                 sim_http_address(served->http), i + 1,
                 log_quote(sim_engine_spec(served->engine)->name));
    return rc;
}

static int start(struct program *program, struct error *err)
{
    const struct sim_options *o = &program->options;
    char host[NET_TEXT_BYTES];
    uint16_t port = 0;
    int rc = net_split(o->listen, host, sizeof(host), &port, err);

    if (rc != 0)
        return error_wrap(err, rc, "--listen");
    rc = loop_init(&program->loop, err);
    if (rc == 0)
        rc = watch_signals(program, err);
    for (size_t i = 0; rc == 0 && i < o->count; i++)
        rc = serve(program, i, host, port, err);
    if (rc == 0)
        log_info("event=ready engines=%zu hint=\"simulated: the words are filler\"", o->count);
    return rc;
}

/* Releases what start() got, also after it failed half way. */
static void finish(struct program *program)
{
    bool closed = true;

    if (program->loop.h2o == NULL)
        return;
    for (size_t i = 0; i < program->options.count; i++)
        closed &= sim_http_close(program->served[i].http);
    if (!closed)
        return; /* the process ends, and nothing is freed under connections that are left */
    for (size_t i = 0; i < program->options.count; i++)
        sim_engine_destroy(program->served[i].engine);
    watch_stop(program->signals);
    loop_finish(&program->loop);
    if (program->signal_fd >= 0)
        (void)close(program->signal_fd);
}

int main(int argc, char **argv)
{
    static struct program program = {.signal_fd = -1};
    struct error err = {0};

    if (parse(&program.options, argc, argv, &err) != 0)
        return command_line_wrong("drover-sim", &err);
    if (command_line_answered(&program.options.line, "drover-sim", version_text(), HELP))
        return EXIT_SUCCESS;
    log_set_proc("sim");
    log_set_level(program.options.line.log_level);
    (void)descriptors_raise(DESCRIPTORS_MANY);
    if (start(&program, &err) != 0) {
        (void)fprintf(stderr, "drover-sim: %s\n", err.text);
        finish(&program);
        return err.code == DRV_EINVAL ? COMMAND_LINE_EXIT : EXIT_FAILURE;
    }
    while (!program.stopping)
        loop_turn(&program.loop, TURN_MAX_US);
    log_info("event=exit");
    finish(&program);
    return EXIT_SUCCESS;
}

/*
 * http_fixture.h - an HTTP server with real sockets for tests: server and clients in one
 * process and one thread, the loop turned by hand until what is awaited has come.
 *
 * The name of the model in a request says what the scripted owner of the answer does; see
 * on_infer() in http_fixture.c.
 */
#ifndef DROVER_TESTS_UNIT_WORKER_HTTP_FIXTURE_H
#define DROVER_TESTS_UNIT_WORKER_HTTP_FIXTURE_H

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/io/loop.h"
#include "base/text/buf.h"
#include "shm/facts/procs.h"
#include "worker/http/client_request.h"
#include "worker/http/responder.h"
#include "worker/http/server.h"

#define PATIENCE_US (10 * US_PER_S)
#define HOST        "Host: test\r\n"

/* One request that has reached the owner of answers. */
struct request {
    struct client_request *request; /* NULL once it has ended */
    unsigned done, gone;
    size_t drained;
    uint64_t ended_mono_us;
    struct timer timer;
    unsigned events_left;
    unsigned number;
};

struct client {
    int fd;
    struct buf in; /* everything received */
    size_t seen;   /* up to where expect() has looked */
    bool eof;      /* end of the stream, or reset */
    bool paused;   /* does not read */
};

extern struct loop loop;
extern struct scoreboard *board;
extern struct config config; /* set up for long limits; change before start() */
extern struct http_server *server;
extern bool ready; /* what the owner says of readiness */
extern bool models_unknown;
extern struct request exchanges[512];
extern unsigned exchanges_count;
extern struct client clients[128];
extern unsigned clients_count;

void setup(void);
void teardown(void);
/* Makes the server. */
void start(void);

/* The text of one event of a "streamN" answer. */
void event_text(char *out, size_t cap, unsigned number, unsigned left);

struct client *dial(void);
/* From 127.0.0.host. */
struct client *dial_from(unsigned host);
void hang_up(struct client *c);
/* One turn of the loop and of every client. */
void turn(void);

/* Turns the loop until `condition` holds. */
#define AWAIT(condition)                                                       \
    do {                                                                       \
        uint64_t give_up_ = clock_mono_us() + PATIENCE_US;                     \
        while (!(condition)) {                                                 \
            cr_assert_lt(clock_mono_us(), give_up_, "timed out: " #condition); \
            turn();                                                            \
        }                                                                      \
    } while (0)

void say_n(struct client *c, const void *bytes, size_t n);
void say(struct client *c, const char *text);
/* A chat request with `body`, and extra header lines. */
void post(struct client *c, const char *headers, const char *body);
/* Has it received `text`, beyond what expect() has found? */
bool has(const struct client *c, const char *text);
/* Waits for `text` and looks behind it from then on. */
void expect(struct client *c, const char *text);
void expect_eof(struct client *c);
/* The whole answer to a request on a connection of its own, after it has been closed. */
const char *ask(const char *request);
const char *get(const char *path);
bool begins(const char *text, const char *with);
/* The access log so far. */
const char *logged(void);
uint64_t counter(enum proc_counter which);

#endif

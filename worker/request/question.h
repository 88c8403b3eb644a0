/*
 * question.h - answers that a node gives without a run of the model: how many tokens a prompt
 * has, what a model is.
 *
 * A question is answered though every slot is taken.  It claims no place in the gauges, waits
 * in no queue, has no part in admission, and nothing is learned from it: no speed, no holding
 * time, no cached prefix, no session, no histogram, no failure of the node.  So it is not a
 * request with exceptions, but a thing of its own: ask a node that is up; if that fails, ask
 * another; give the client the one document.  A request that takes a model out of
 * memory (operation_unloads()) goes to each Ollama that has the model, loaded there or
 * not, as looks may be old; one that fails makes it an error.
 *
 *   ASKED     a node has it
 *   NO_NODE   no node that could answer is up; looks again for two seconds
 *   ANSWERED  everything has been given to the responder, which may still be writing
 */
#ifndef DROVER_WORKER_QUESTION_H
#define DROVER_WORKER_QUESTION_H

#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "proto/wire.h"

struct config;
struct holders;
struct upstreams;
struct client_request;
struct log_sink;
struct loop;
struct question; /* opaque */
struct scoreboard;

/* Shared by all questions of a process.  Everything but the last group is borrowed. */
struct question_core {
    struct loop *loop;
    const struct config *config;
    struct scoreboard *board;
    struct holders *holders;
    unsigned worker; /* index in the process table, for counters */
    struct upstreams *upstreams;
    struct log_sink *access_log;

    /* private to question.c */
    struct wire_arena arena;
    LIST_HEAD(, question) questions;
    size_t open_count;
    uint32_t cursor; /* equal nodes take turns */
};

void question_core_init(struct question_core *core);
void question_core_finish(struct question_core *core);

/* Takes a valid request whose operation is a question; the answer is given from here on. */
void question_start(struct question_core *core, struct client_request *request);

size_t question_open(const struct question_core *core);

/* The shutdown grace is over: ends every question with 503. */
void question_stop_all(struct question_core *core);

#endif
